"""Which replica gets a request, which request waits, what was promised: pure."""
