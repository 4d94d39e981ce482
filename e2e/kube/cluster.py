"""A whole cluster on one machine: the control plane with the first node, and further nodes that can be lost.

Needs root, Linux, and Debian's containerd and runc. The machine reaches the API server, pods and service addresses
directly; pods reach the machine at `lan.host_address`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from kube.binaries import find_program
from kube.box import Box
from kube.control_plane import ControlPlane, Endpoint
from kube.images import write_images
from kube.lan import Lan
from kube.name_server import start_name_server
from kube.node import Node
from kube.processes import wait_until
from kube.run_folder import RunFolder

NODE_READY_SECONDS = 60.0
FIRST_NODE = "node1"
PROGRAMS = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"),
    *("kubelet", "kube-proxy", "coredns", "pause"),
    *("containerd", "containerd-shim-runc-v2", "ctr", "runc", "iptables", "conntrack"),
    *("ip", "nsenter", "unshare"),
)
"""What a cluster is made of."""


class Cluster(ControlPlane):
    """A control plane and its nodes. `node1` shares the control plane's network and cannot be killed alone."""

    def __init__(self, run: RunFolder) -> None:
        """Make the first node's namespaces and the network; nothing runs before `start`."""
        box = Box(run, FIRST_NODE)
        self.lan = Lan(run, box)
        super().__init__(
            run,
            Endpoint(
                address=self.lan.node_address(1),
                services=self.lan.services,
                first_service=self.lan.first_service,
                enter=box.enter_network,
                has_nodes=True,
            ),
        )
        self.nodes: dict[str, Node] = {FIRST_NODE: Node(self, self.lan, box, 1)}
        self._images = run.path / "images.tar"

    def start(self) -> None:
        """Start everything; returns when the first node is ready and pods can be made."""
        write_images(self._images, pause=find_program("pause"))
        super().start()
        self.start_controller_manager()
        self.start_scheduler()
        start_name_server(self)
        self._start_node(self.nodes[FIRST_NODE], labels={})
        wait_until(self._has_default_account, seconds=NODE_READY_SECONDS, what="pods have an account")

    def add_node(self, name: str, *, labels: Mapping[str, str] | None = None) -> Node:
        """Start a further node; returns when it is ready. One that was killed may come back by its name."""
        number = max(node.number for node in self.nodes.values()) + 1
        node = Node(self, self.lan, Box(self.run, name), number)
        self.lan.join(number, node.box)
        self.nodes[name] = node
        self._start_node(node, labels=labels or {})
        return node

    def kill_node(self, name: str) -> None:
        """Lose a node as by a power cut: its link is down first, then kubelet, containerd and all pods are gone."""
        assert name != FIRST_NODE, f"{FIRST_NODE} shares its network with the control plane"
        node = self.nodes.pop(name)
        self.lan.cut(node.number)
        node.box.kill()

    def set_capacity(self, name: str, resources: Mapping[str, int]) -> None:
        """Let a node have what this machine has not, such as `nvidia.com/gpu`: scheduler and kubelet count it."""
        amounts = {resource: str(amount) for resource, amount in resources.items()}
        patch = json.dumps({"status": {"capacity": amounts, "allocatable": amounts}})
        self.kubectl("patch", "node", name, "--subresource=status", "--patch", patch)

    def _start_node(self, node: Node, *, labels: Mapping[str, str]) -> None:
        node.start(self._images, labels=labels)
        wait_until(node.is_ready, seconds=NODE_READY_SECONDS, what=f"{node.name} is ready", pause=0.2)

    def _has_default_account(self) -> bool:
        return any(each["metadata"]["name"] == "default" for each in self.list("serviceaccounts"))
