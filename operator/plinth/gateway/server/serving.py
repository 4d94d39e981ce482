"""What every process that serves clients has: the core, the listener before it, and a peaceful end.

Who tells it what to serve is its subclass's: a controller at a socket, or the parent of several workers.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from functools import partial
from typing import Final

from plinth.domain.access import AccessTable
from plinth.domain.traffic import LoadReport, RouteTable
from plinth.gateway.options import Options
from plinth.gateway.server.client import ClientConnection
from plinth.gateway.server.core import Core
from plinth.gateway.server.fleet import News
from plinth.gateway.server.peers import Peers

log = logging.getLogger(__name__)

_DRAIN_LOOK_SECONDS: Final = 0.05
"""Between looks at whether the last request has ended; only while draining."""
_UNDER_WAY_SECONDS: Final = 0.25
"""That requests get which were sent before their sender could know: closing at once would answer them by a reset."""
BACKLOG: Final = 2048
HANDSHAKE_SECONDS: Final = 10.0
"""For TLS: a connection in its handshake is counted nowhere yet."""


class Serving:
    """From `listen` until `wait` returns."""

    def __init__(self, options: Options, secret: str, *, news: News, peers: Peers | None = None) -> None:
        self.core = Core(secret=secret, options=options, news=news, peers=peers)
        self.address = ("", 0)
        """Where clients reach it, once it listens."""
        self._listener: asyncio.Server | None = None
        self._draining: asyncio.Task[None] | None = None
        self._over = asyncio.Event()

    async def listen(self, at: socket.socket | tuple[str, int]) -> None:
        """Accepts clients, at an address or from a socket that is bound to one; raises OSError."""
        tls = self.core.server_tls
        create = partial(
            asyncio.get_running_loop().create_server,
            partial(ClientConnection, self.core),
            backlog=BACKLOG,
            ssl=tls.context if tls is not None else None,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if tls is not None else None,
        )
        self._listener = await (create(sock=at) if isinstance(at, socket.socket) else create(*at))
        self.address = self._listener.sockets[0].getsockname()[:2]

    async def wait(self) -> None:
        """Returns when the process is to end."""
        await self._over.wait()

    def drain(self, deadline_seconds: float) -> None:
        """Accepts no more; leaves when the last request has ended, or at the deadline. A second call hurries."""
        if self._draining is not None:
            deadline_seconds = min(deadline_seconds, 0.0)
            self._draining.cancel()
        log.info("draining for at most %g s", deadline_seconds)
        self.core.draining = True
        if self._listener is not None:
            self._listener.close()
        self._draining = asyncio.get_running_loop().create_task(self._drain(deadline_seconds))

    async def close(self) -> None:
        """Closes what is open."""
        if self._draining is not None:
            self._draining.cancel()
        for connection in list(self.core.connections):
            connection.kill()
        if self._listener is not None:
            self._listener.close()
        await self.core.close()

    def route_by(self, table: RouteTable) -> None:
        """The newest route table."""
        log.info("route table %d: %d models", table.version, len(table.models))
        self.core.fleet.apply(table)

    def admit_by(self, table: AccessTable) -> None:
        """The newest access table."""
        log.info("access table %d: %d keys, %d policies", table.version, len(table.keys), len(table.policies))
        self.core.admit_by(table)

    def make_report(self) -> LoadReport:
        """For whoever tells it what to serve."""
        return self.core.fleet.report(self.core.identity)

    def is_busy(self) -> bool:
        """Whether there is something to report."""
        return self.core.fleet.is_busy()

    async def _drain(self, deadline_seconds: float) -> None:
        began = now = time.monotonic()
        while now < began + deadline_seconds and (
            self.core.active() or (self.core.connections and now < began + _UNDER_WAY_SECONDS)
        ):
            await asyncio.sleep(_DRAIN_LOOK_SECONDS)
            now = time.monotonic()
        for connection in list(self.core.connections):
            connection.close_when_idle()
        await asyncio.sleep(_DRAIN_LOOK_SECONDS)
        self._over.set()
