"""Where a gateway's workers count limits together when there is no Redis: their parent, at a socket beside its control.

It speaks as much of Redis' protocol as the workers' leases ask: the scripts are known by their hashes, and what they
would do is done here.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from plinth.gateway.limits.exchange import HEARTBEAT, SCRIPT_TEXT
from plinth.gateway.limits.shared_counters import SharedCounters
from plinth.gateway.protocol.resp import MalformedReplyError, Reply, ReplyReader
from plinth.gateway.server.control import remove_stale


def _sha(script: bytes) -> bytes:
    return (
        hashlib.sha1(script, usedforsecurity=False).hexdigest().encode()
    )  # the name that Redis gives a script


_EXCHANGE, _HEARTBEAT = _sha(SCRIPT_TEXT), _sha(HEARTBEAT)


class CounterConnection(asyncio.Protocol):
    """One worker."""

    def __init__(self, counters: SharedCounters) -> None:
        self._counters = counters
        self._reader = ReplyReader()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = transport  # type: ignore[assignment] # uvloop's is no subclass of Transport

    def data_received(self, data: bytes) -> None:
        """Commands, each a list of byte strings, as answers may be."""
        if self._transport is None:
            return
        try:
            for command in self._reader.feed(data):
                self._transport.write(self._answer(command))
        except MalformedReplyError:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why does not matter
        """The worker is gone; what it has used counts on."""
        self._transport = None

    def _answer(self, command: Reply) -> bytes:
        words = [word for word in command if isinstance(word, bytes)] if isinstance(command, list) else []
        try:
            match words:
                case [b"SCRIPT", b"LOAD", script]:
                    name = _sha(script)
                    return b"$%d\r\n%s\r\n" % (len(name), name)
                case [b"EVALSHA", name, count, *rest] if name == _EXCHANGE:
                    keys, arguments = rest[: int(count)], rest[int(count) :]
                    return _array(self._counters.exchange(keys, arguments, time.monotonic()))
                case [b"EVALSHA", name, b"1", _, worker] if name == _HEARTBEAT:
                    return b":%d\r\n" % self._counters.heartbeat(worker, time.monotonic())
        except (ValueError, IndexError) as error:
            return b"-ERR %s\r\n" % str(error).encode()
        return b"-ERR not among what workers ask\r\n"


async def serve_counters(path: Path) -> asyncio.Server:
    """Opens the socket, for this user only; raises FileExistsError when another gateway holds it."""
    remove_stale(path)
    counters = SharedCounters()
    before = os.umask(0o177)
    try:
        return await asyncio.get_running_loop().create_unix_server(
            lambda: CounterConnection(counters), str(path)
        )
    finally:
        os.umask(before)


def _array(numbers: Sequence[int]) -> bytes:
    return b"*%d\r\n" % len(numbers) + b"".join(b":%d\r\n" % number for number in numbers)
