"""Which request is next while replicas are full, which is refused, and how full a replica may be: pure."""
