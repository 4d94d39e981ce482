"""Where the processes of one engine reach each other: on loopback, or across the nodes that a replica spans.

vLLM's parts find each other by sockets that ask nobody who they are: its queues (vllm/distributed/device_communicators/
shm_broadcast.py), torch's rendezvous and gloo, NCCL. So each is told the one address to listen on, never all of them.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

LOOPBACK = "127.0.0.1"
_SIOCGIFADDR = 0x8915
"""linux/sockios.h: the IPv4 address of an interface."""
_IPV6_TABLE = Path("/proc/net/if_inet6")


def keep_at(address: str, environment: MutableMapping[str, str]) -> None:
    """Have vLLM, gloo and NCCL listen at this address of the node.

    Between nodes, an interface that the pool's own environment names stays: a fleet may have a network for this.
    """
    environment["VLLM_HOST_IP"] = address
    interface = interface_of(address)
    if interface is None:
        return
    # NCCL takes a name for the beginning of one, but for the equals sign; loopback it uses only where it is told to
    # (https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html).
    for name, value in {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"}.items():
        if address == LOOPBACK or name not in environment:
            environment[name] = value


def interface_of(address: str, ipv6_table: Path = _IPV6_TABLE) -> str | None:
    """The network interface that has the address; None where none of this machine's has."""
    wanted = ipaddress.ip_address(address)
    if wanted.is_loopback and wanted.version == 4:  # noqa: PLR2004 - IPv4: all of 127/8 is one interface
        return "lo"
    if wanted.version == 4:  # noqa: PLR2004 - IPv4
        return next((name for _, name in socket.if_nameindex() if _ipv4_of(name) == str(wanted)), None)
    lines = [line.split() for line in ipv6_table.read_text().splitlines()] if ipv6_table.exists() else []
    return next((fields[-1] for fields in lines if int(fields[0], 16) == int(wanted)), None)


def _ipv4_of(interface: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking, suppress(OSError):
        request = struct.pack("256s", interface.encode())
        return socket.inet_ntoa(fcntl.ioctl(asking, _SIOCGIFADDR, request)[20:24])
    return ""


def free_port(address: str) -> int:
    """A port of the address that nobody listens on now."""
    with listening(address, 0) as probe:
        port: int = probe.getsockname()[1]
        return port


def listening(address: str, port: int, backlog: int = 1) -> socket.socket:
    """A socket that listens at this address alone."""
    family, kind, protocol, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(where)
    made.listen(backlog)
    return made
