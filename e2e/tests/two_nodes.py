"""A Ray of two nodes on one machine: `python two_nodes.py DASHBOARD_PORT`. Lives until its stdin ends."""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

MEMORY_BYTES = 2**31


def main() -> None:
    head = {
        "include_dashboard": True,
        "dashboard_port": int(sys.argv[1]),
        "num_cpus": 2,
        "memory": MEMORY_BYTES,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=2, memory=MEMORY_BYTES)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
