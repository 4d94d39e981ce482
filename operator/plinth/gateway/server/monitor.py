"""A port for Prometheus and for probes, apart from the clients': in the clear and without a key, so it is to be closed to them.

A connection has one question, and little time for it. A gateway of several processes answers here by their parent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from plinth.gateway.protocol.response import whole_response
from plinth.gateway.server.local import LIVE, METRICS, Local

ANSWER_SECONDS: Final = 5.0
"""From a connection's begin to its end."""
MOST_CONNECTIONS: Final = 64
_LONGEST_HEAD: Final = 8 * 1024
_ELSEWHERE: Final[Local] = (404, LIVE[1], b"there are /metrics, /readyz and /livez\n")
_NOT_READ: Final[Local] = (405, [*LIVE[1], (b"allow", b"GET, HEAD")], b"only GET and HEAD\n")


class MonitorServer:
    """Listens from `listen` to `close`, also while the gateway drains."""

    def __init__(self, *, metrics: Callable[[], Awaitable[bytes]], readiness: Callable[[], Local]) -> None:
        self.address = ("", 0)
        """Where it listens, once it does."""
        self._metrics = metrics
        self._readiness = readiness
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    async def listen(self, host: str, port: int) -> None:
        """Accepts; raises OSError."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=_LONGEST_HEAD)
        self.address = self._server.sockets[0].getsockname()[:2]

    def close(self) -> None:
        """Hangs up."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MOST_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections.add(writer)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._answer(head))
                writer.close()
                await writer.wait_closed()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):  # a timeout is one, too
            pass
        finally:
            self._connections.discard(writer)
            writer.transport.abort()

    async def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        status, headers, body = await self._find(method, rest.partition(b" ")[0].partition(b"?")[0])
        return whole_response(
            status, headers, body, request_id=b"-", keep_alive=False, head_only=method == b"HEAD"
        )

    async def _find(self, method: bytes, path: bytes) -> Local:
        if method not in {b"GET", b"HEAD"}:
            return _NOT_READ
        match path:
            case b"/metrics":
                return 200, METRICS, await self._metrics()
            case b"/readyz":
                return self._readiness()
            case b"/livez":
                return LIVE
        return _ELSEWHERE
