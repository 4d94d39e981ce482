"""What a model is made of: layers, weights, KV cache, counted from its config.json, GGUF metadata or tensor headers."""
