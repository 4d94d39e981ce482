"""A Ray of two nodes on one machine: `python two_nodes.py DASHBOARD_PORT [GPUS]`. Lives until its stdin ends.

GPUS on each node are in Ray's books only.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

MEMORY_BYTES = 2**31


def main() -> None:
    gpus = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    head = {
        "include_dashboard": True,
        "dashboard_port": int(sys.argv[1]),
        "num_cpus": 2,
        "num_gpus": gpus,
        "memory": MEMORY_BYTES,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=2, num_gpus=gpus, memory=MEMORY_BYTES)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
