"""The network of a cluster: a bridge in the first node's box, to which this machine and all other nodes are linked.

All addresses lie in one /16 that nothing else here uses, and this machine has one route to it. So tests speak to the
API server, to pods and to service addresses directly. Nothing in a box has a route to anywhere else.
"""

from __future__ import annotations

import contextlib
import secrets

from kube.binaries import find_program
from kube.box import Box, call
from kube.run_folder import RunFolder

FIRST_NETWORK, NETWORKS = 64, 64


class Lan:
    """The addresses and links of one cluster."""

    def __init__(self, run: RunFolder, first: Box) -> None:
        """Claim a network and link this machine to the first node's box."""
        self._ip = str(find_program("ip"))
        self._boxes = {1: first}
        self.prefix = self._claim()
        run.record_link(self.link)
        for command in (
            f"link add lan0 address {_hardware_address(1)} type bridge",
            f"addr add {self.node_address(1)}/24 dev lan0",
            "link set lan0 up",
            "link set host0 master lan0 up",
            f"route add {self.services} dev lan0",
        ):
            first.call(self._ip, *command.split())
        self._on_host(f"addr add {self.host_address}/24 dev {self.link}")
        self._on_host(f"link set {self.link} up")
        self._on_host(f"route add {self.prefix}.0.0/16 via {self.node_address(1)}")

    @property
    def host_address(self) -> str:
        """This machine as pods see it."""
        return f"{self.prefix}.0.254"

    @property
    def services(self) -> str:
        return f"{self.prefix}.16.0/20"

    @property
    def first_service(self) -> str:
        return f"{self.prefix}.16.1"

    @property
    def pods(self) -> str:
        """The network of all pods."""
        return f"{self.prefix}.128.0/17"

    def node_address(self, number: int) -> str:
        return f"{self.prefix}.0.{number}"

    def node_pods(self, number: int) -> str:
        """The network of the pods of one node."""
        return f"{self.prefix}.{128 + number}.0/24"

    def join(self, number: int, box: Box) -> None:
        """Link a further node to the bridge, with routes to and from the pods of all others."""
        first = self._boxes[1]
        peer = f"peer name eth0 address {_hardware_address(number)} netns {box.init.pid}"
        self._on_host(f"link add port{number} netns {first.init.pid} type veth {peer}")
        first.call(self._ip, *f"link set port{number} master lan0 up".split())
        for command in (
            f"addr add {self.node_address(number)}/24 dev eth0",
            "link set eth0 up",
            f"route add {self.services} dev eth0",
        ):
            box.call(self._ip, *command.split())
        # This machine's route leads there directly too: packets that went one way and came back another would be
        # dropped as invalid by the first node's connection tracking.
        self._on_host(f"route replace {self.node_pods(number)} via {self.node_address(number)}")
        for other, other_box in self._boxes.items():
            self._route(box, to=other)
            self._route(other_box, to=number)
        self._boxes[number] = box

    def cut(self, number: int) -> None:
        """Pull a further node's cable: those who spoke to it hear nothing more, no farewell either."""
        del self._boxes[number]
        self._boxes[1].call(self._ip, "link", "delete", f"port{number}")

    def _route(self, box: Box, *, to: int) -> None:
        # A node that was lost may come back under its number: the route to its pods is there already.
        box.call(self._ip, "route", "replace", self.node_pods(to), "via", self.node_address(to))

    def _claim(self) -> str:
        """The first two numbers of a network that is free here; its link's name keeps others from taking it."""
        taken = self._on_host("route show table all")
        start = secrets.randbelow(NETWORKS)
        for offset in range(NETWORKS):
            number = FIRST_NETWORK + (start + offset) % NETWORKS
            if f"10.{number}." in taken:
                continue
            self.link = f"plinth{number}"
            peer = f"type veth peer name host0 netns {self._boxes[1].init.pid}"
            with contextlib.suppress(RuntimeError):
                self._on_host(f"link add {self.link} {peer}")
                return f"10.{number}"
        raise RuntimeError(f"all networks from 10.{FIRST_NETWORK}.0.0/16 on are in use")

    def _on_host(self, command: str) -> str:
        return call(self._ip, *command.split())


def _hardware_address(number: int) -> str:
    """The same whenever a node comes, and the bridge's whatever joins it: neighbours remember addresses for long."""
    return f"02:00:00:00:00:{number:02x}"
