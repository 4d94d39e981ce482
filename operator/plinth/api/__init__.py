"""The resources that users write, by version."""
