"""HTTP and SSE rules without I/O."""
