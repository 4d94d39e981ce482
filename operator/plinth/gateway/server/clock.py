"""When the bytes in hand became readable, as nearly as a process can know it itself."""

from __future__ import annotations

import asyncio
import time


class BatchClock:
    """Tells when the current batch of ready sockets began to be handled.

    All sockets of one poll are ready together and are handled one after another; those at the end of the batch
    have waited for the others. Measuring from the beginning of the batch counts that wait, which a clock started
    in the handler would not see. The wait before the poll returned stays unseen.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._began: float | None = None

    def batch_began(self) -> float:
        """Monotonic seconds."""
        if self._began is None:
            self._began = time.perf_counter()
            self._loop.call_soon(self._end)
        return self._began

    def _end(self) -> None:
        self._began = None
