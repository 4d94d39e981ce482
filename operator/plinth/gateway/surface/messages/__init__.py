"""The Messages API of Anthropic's clients, said in chat completions."""
