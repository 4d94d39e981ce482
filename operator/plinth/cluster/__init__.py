"""All I/O with the outside: Ray, the resource store, model files, the gateway's control socket."""
