"""The API that clients see: other dialects than chat completions, names of models, the OpenAPI document. Pure."""
