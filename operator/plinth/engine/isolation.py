"""Keeps a replica's other door shut: Ray Serve's server for calls between deployments.

Every Serve replica opens a gRPC server on all interfaces (`add_insecure_port("[::]:0")`, Ray 2.57's
`replica.py`, `_on_initialized`) that unpickles what it is sent, without asking who sends it. Plinth's deployments
never call each other, so the server moves to loopback. Ray opens it after it has built the replica's app, and the
process holds one replica only, so the app's builder can put this in front of grpc's own method.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import grpc.aio  # type: ignore[import-untyped] # ships no types

_EVERYWHERE = ("[::]:", "0.0.0.0:")


def bind_grpc_to_loopback(server_class: type[grpc.aio.Server] | None = None) -> None:
    """From now on, grpc.aio servers of this process that ask for all interfaces get 127.0.0.1."""
    target = type(grpc.aio.server()) if server_class is None else server_class
    add: Callable[[grpc.aio.Server, str], int] = target.add_insecure_port
    if hasattr(add, "__wrapped__"):
        return

    @functools.wraps(add)
    def add_on_loopback(self: grpc.aio.Server, address: str) -> int:
        return add(self, _to_loopback(address))

    target.add_insecure_port = add_on_loopback


def _to_loopback(address: str) -> str:
    for everywhere in _EVERYWHERE:
        if address.startswith(everywhere):
            return "127.0.0.1:" + address.removeprefix(everywhere)
    return address
