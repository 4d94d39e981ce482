"""A real Kubernetes cluster on one machine, for tests and for trying Plinth out."""
