"""Which replica gets a request: pure."""
