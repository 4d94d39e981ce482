"""The fleet cycle: gather, plan, execute, status."""
