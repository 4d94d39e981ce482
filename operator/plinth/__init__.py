"""Plinth turns a fleet of accelerators into one model-serving platform."""

__version__ = "0.1.0"
