"""When the bytes in hand became readable, as nearly as a process can know it itself."""

from __future__ import annotations

import asyncio
from time import monotonic, thread_time

from plinth.gateway.telemetry.ready_wait import ReadyWait


class BatchClock:
    """Tells when the current batch of ready sockets may have become ready.

    All sockets of one poll are ready together and are handled one after another; those at the end of the batch
    have waited for the others, and all of them for whatever ran before the poll.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wait = ReadyWait()
        self._ready_at: float | None = None
        self._wait.begin(monotonic(), thread_time())
        self._wait.end(monotonic())

    def ready_at(self) -> float:
        """Monotonic seconds."""
        if self._ready_at is None:
            now = monotonic()
            self._wait.begin(now, thread_time())
            self._ready_at = now - self._wait.longest
            self._loop.call_soon(self._end)
        return self._ready_at

    def _end(self) -> None:
        self._ready_at = None
        self._wait.end(monotonic())
