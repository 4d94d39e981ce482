"""What should exist at Ray, rendered from a plan: pure functions."""
