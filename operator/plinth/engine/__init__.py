"""What runs inside Ray: the replica, its engines, model sources."""
