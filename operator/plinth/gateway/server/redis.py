"""One connection to Redis on asyncio: commands are pipelined, answers come to their callbacks in order."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from plinth.gateway.protocol.resp import MalformedReplyError, RedisError, Reply, ReplyReader, command
from plinth.gateway.server.tls import TlsFiles, client_context, look

OnReply = Callable[[Reply], None]


@dataclass(frozen=True)
class RedisAddress:
    """Where Redis listens, and how to be let in."""

    host: str = ""
    port: int = 6379
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: TlsFiles | None = None
    """By which it is spoken to; None for in the clear."""
    path: Path | None = None
    """Of a Unix socket, in place of host and port."""


class RedisConnection(asyncio.Protocol):
    """Open from `connect_to_redis` until it is lost. Calls that are unanswered then are not answered any more."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost
        self._reader = ReplyReader()
        self._waiting: deque[OnReply] = deque()
        self._transport: asyncio.Transport | None = None

    def send(self, request: bytes, on_reply: OnReply) -> None:
        """Sends a command; nothing happens on a connection that is lost."""
        if self._transport is not None:
            self._waiting.append(on_reply)
            self._transport.write(request)

    def close(self) -> None:
        """Ends the connection without waiting; `on_lost` is called."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = transport  # type: ignore[assignment] # uvloop's is no subclass of Transport

    def data_received(self, data: bytes) -> None:
        """Hands answers out."""
        try:
            for reply in self._reader.feed(data):
                self._waiting.popleft()(reply)
        except (MalformedReplyError, IndexError):
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why does not matter
        """The connection is gone."""
        self._transport = None
        self._waiting.clear()
        self._on_lost()

    async def ask(self, *parts: bytes) -> Reply:
        """One command and its answer, for set-up.

        Raises:
            RedisError: Redis refuses.
            ConnectionError: the connection is lost before the answer; only where it was lost before the call.
        """
        if self._transport is None:
            raise ConnectionError("the connection to Redis is lost")
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def settle(reply: Reply) -> None:
            if not answered.done():
                answered.set_result(reply)

        self.send(command(*parts), settle)
        reply = await answered
        if isinstance(reply, RedisError):
            raise reply
        return reply


async def connect_to_redis(
    address: RedisAddress, on_lost: Callable[[], None], seconds: float
) -> RedisConnection:
    """An open connection, let in and set to its database, within so many seconds.

    Raises:
        OSError: nobody answers there, or not in time, or somebody else than should.
        RedisError: it answers, but lets nobody in.
    """
    async with asyncio.timeout(seconds):
        loop = asyncio.get_running_loop()
        if address.path is not None:
            _, connection = await loop.create_unix_connection(
                lambda: RedisConnection(on_lost), str(address.path)
            )
        else:
            _, connection = await loop.create_connection(
                lambda: RedisConnection(on_lost),
                address.host,
                address.port,
                ssl=_context(address.tls, look(address.tls)) if address.tls is not None else None,
            )
        try:
            if address.password is not None:
                user = (address.username.encode(),) if address.username is not None else ()
                await connection.ask(b"AUTH", *user, address.password.encode())
            if address.database:
                await connection.ask(b"SELECT", b"%d" % address.database)
        except BaseException:
            connection.close()
            raise
    return connection


@lru_cache(maxsize=1)
def _context(files: TlsFiles, _seen: tuple[tuple[int, int, int], ...]) -> ssl.SSLContext:
    """Made anew only when the files have changed: while Redis is away many connections are tried."""
    return client_context(files)
