"""Wiring: processes, signals, the standalone mode."""
