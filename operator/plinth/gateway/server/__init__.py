"""The gateway's I/O: sockets, timers, signals. What is decided lies in protocol and routing."""
