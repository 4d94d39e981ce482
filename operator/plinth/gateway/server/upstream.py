"""One connection to a replica, and the few that are kept idle for the next request."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final, Protocol

from plinth.gateway.protocol.response import ResponseError, ResponseReader
from plinth.gateway.server.tls import ClientTls

COPIED_BYTES: Final = 64 * 1024
"""Below this, one copy is cheaper than a second call into the kernel."""
STALE_SECONDS: Final = 1.0
"""A reused connection that closes this soon after a request was most likely closed before it: a keep-alive race."""


class Exchange(Protocol):
    """Who waits for an answer."""

    __slots__ = ()

    def on_answer(self, connection: UpstreamConnection, now: float) -> None:
        """More of the answer lies in `connection.reader`. `now`: monotonic seconds."""

    def on_lost(self, detail: str, *, stale: bool) -> None:
        """The connection ended before the answer; `stale` when it was an idle one that had served before."""


class UpstreamConnection(asyncio.Protocol):
    """Carries one exchange at a time."""

    __slots__ = ("_exchange", "_paused", "_pool", "_sent", "idle_since", "reader", "reused", "transport")

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._exchange: Exchange | None = None
        self._paused = False
        self.reader = ResponseReader()
        self.reused = False
        self.idle_since = 0.0
        self._sent = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self.transport = transport  # type: ignore[assignment] # a stream socket's is a Transport

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._pool.last_heard = now = monotonic()
        exchange = self._exchange
        if exchange is None:
            self.abort()  # nothing was asked
            return
        try:
            self.reader.feed(data)
        except ResponseError as error:
            self.abort()
            exchange.on_lost(str(error), stale=False)
            return
        exchange.on_answer(self, now)

    def eof_received(self) -> bool:
        """The other side sends no more."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.transport = None
        self._pool.forget(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            detail = str(exc) if exc else "the replica closed the connection"
            young = monotonic() - self._sent < STALE_SECONDS
            exchange.on_lost(detail, stale=self.reused and young and not self.reader.head_complete)

    def send(self, exchange: Exchange, head: bytes, body: bytes, now: float) -> None:
        """Sends one request; the answer goes to `exchange`. Without a transport the loss is told at once."""
        if self.transport is None or self.transport.is_closing():
            exchange.on_lost("the connection was closed", stale=self.reused)
            return
        self._exchange = exchange
        self._sent = now
        self.reader.begin()
        if len(body) < COPIED_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)

    def pause(self) -> None:
        """Reads no more until `resume`: the client is slower than the replica."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
            self._paused = True

    def resume(self) -> None:
        """Reads again."""
        if self._paused and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
            self._paused = False

    def abort(self) -> None:
        """Closes at once and tells nobody: the engine sees it and stops working."""
        self._exchange = None
        if self.transport is not None:
            self.transport.abort()

    def release(self) -> None:
        """The answer is complete: keeps the connection for the next request, where that is safe."""
        self._exchange = None
        reader = self.reader
        if reader.complete and reader.reusable and not reader.overrun and self.transport is not None:
            self.resume()
            self._pool.keep(self)
        else:
            self.abort()


class ConnectionPool:
    """The connections to one replica that wait for work, the most recently used first."""

    def __init__(self, host: str, port: int, most_idle: int, tls: ClientTls | None = None) -> None:
        self.host = host
        self.port = port
        self._tls = tls
        self.last_heard = monotonic()
        """When any connection to this replica last brought bytes or was made."""
        self._most_idle = most_idle
        self._idle: list[UpstreamConnection] = []

    def take(self) -> UpstreamConnection | None:
        """An idle connection, or None."""
        while self._idle:
            connection = self._idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                return connection
        return None

    async def connect(self, seconds: float) -> UpstreamConnection:
        """A new connection; raises OSError (TimeoutError among them)."""
        async with asyncio.timeout(seconds):
            loop = asyncio.get_running_loop()
            tls = self._tls
            _, connection = await loop.create_connection(
                lambda: UpstreamConnection(self),
                self.host,
                self.port,
                ssl=tls.context if tls is not None else None,
                server_hostname=tls.server_name if tls is not None else None,
            )
        self.last_heard = monotonic()
        return connection

    def keep(self, connection: UpstreamConnection) -> None:
        """Takes a connection back."""
        if len(self._idle) >= self._most_idle:
            connection.abort()
            return
        connection.reused = True
        connection.idle_since = self.last_heard
        self._idle.append(connection)

    def has_idle(self) -> bool:
        """Whether any connection waits for work."""
        return bool(self._idle)

    def forget(self, connection: UpstreamConnection) -> None:
        """Drops a connection that is gone."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Closes the idle ones and keeps none from now on."""
        self._most_idle = 0
        self.close_idle()

    def close_idle(self, before: float | None = None) -> None:
        """Closes those idle since before a time (monotonic seconds); all of them without one."""
        for connection in [item for item in self._idle if before is None or item.idle_since < before]:
            self._idle.remove(connection)
            connection.abort()
