"""A Ray of two nodes on one machine: `python two_nodes.py DASHBOARD_PORT [GPUS [VISIBLE VISIBLE]]`.

GPUS on each node are in Ray's books only, unless VISIBLE says by their numbers which of the machine's a node shows. Lives
until its stdin ends.
"""

from __future__ import annotations

import os
import sys

from ray.cluster_utils import Cluster

MEMORY_BYTES = 2**31


def main() -> None:
    port, gpus, *visible = [*sys.argv[1:], "0"] if len(sys.argv) == 2 else sys.argv[1:]
    node = {"num_cpus": 2, "num_gpus": int(gpus), "memory": MEMORY_BYTES}
    cluster = Cluster()
    for dashboard in ({"include_dashboard": True, "dashboard_port": int(port)}, {}):
        if visible:
            # What a node's processes inherit is what its own variable would be.
            os.environ["CUDA_VISIBLE_DEVICES"] = visible.pop(0)
            node["num_gpus"] = len(os.environ["CUDA_VISIBLE_DEVICES"].split(","))
        cluster.add_node(**node, **dashboard)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
