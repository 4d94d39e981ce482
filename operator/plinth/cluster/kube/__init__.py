"""The Kubernetes API and the adapters that speak to it: resources, Lease, events, capacity, routes."""
