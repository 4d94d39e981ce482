"""The data plane: one process between clients and replicas."""
