"""Which accelerators there are and what each can do: data with sources, looked up by the name that Ray gives a node."""
