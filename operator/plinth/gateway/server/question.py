"""A small request of the gateway's own to a replica, and its whole answer."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from plinth.gateway.protocol.forward import question_head
from plinth.gateway.server.upstream import ConnectionPool, Exchange, UpstreamConnection

_MOST_BYTES: Final = 16 * 1024 * 1024
"""Of an answer: the tokens of a long prompt."""
_OK: Final = 200


class _Question(Exchange):
    """Waits for one answer."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._body = bytearray()

    def on_answer(self, connection: UpstreamConnection, now: float) -> None:  # noqa: ARG002 - nobody waits by the clock
        """More of it came."""
        reader = connection.reader
        self._body += reader.take() if reader.parts else b""
        if reader.complete:
            connection.release()
            if not self.answered.done():
                self.answered.set_result(bytes(self._body) if reader.status == _OK else b"")
        elif len(self._body) > _MOST_BYTES:
            connection.abort()
            self.on_lost("its answer is too long", stale=False)

    def on_lost(self, detail: str, *, stale: bool) -> None:  # noqa: ARG002 - who asks may ask again
        """There will be none."""
        if not self.answered.done():
            self.answered.set_exception(ConnectionError(detail))


async def ask(
    pool: ConnectionPool, prefix: tuple[bytes, bytes], path: str, body: bytes = b"", *, seconds: float
) -> bytes:
    """The answer's body, empty for any status but 200; raises OSError, TimeoutError among them.

    On a new connection: an idle one may be closing, and a question is asked when something is wrong already.
    """
    connection = await pool.connect(seconds)
    question = _Question()
    connection.send(question, question_head(prefix, path, len(body)), body, time.monotonic())
    try:
        async with asyncio.timeout(seconds):
            return await question.answered
    except BaseException:
        connection.abort()
        raise
