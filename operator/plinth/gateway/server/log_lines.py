"""Writes lines of a log from a thread of its own: a reader that stops reading must not stop the gateway.

The data path appends to a list. Twenty times a second what gathered goes to the thread as one write; what the other
side does not take in time is dropped, whole lines of it, and counted.
"""

from __future__ import annotations

import asyncio
import logging
import os
from queue import SimpleQueue
from threading import Thread
from typing import Final

log = logging.getLogger(__name__)

_EVERY_SECONDS: Final = 0.05
_MOST_BYTES: Final = 4 * 1024 * 1024
_CLOSE_SECONDS: Final = 1.0


class LineWriter:
    """Owns no descriptor: standard output stays open when this closes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: list[bytes] = []
        self._bytes = 0
        """Of lines not written yet, wherever they are."""
        self._timer: asyncio.TimerHandle | None = None
        self._batches: SimpleQueue[bytes | None] = SimpleQueue()
        self._written: SimpleQueue[int] = SimpleQueue()
        self._writer = Thread(target=self._write, name="log-lines", daemon=True)
        self._writer.start()
        self.dropped = 0
        """Lines."""

    def add(self, line: bytes) -> None:
        """Takes a line with its end."""
        if self._bytes + len(line) > _MOST_BYTES:
            self._settle()
            if self._bytes + len(line) > _MOST_BYTES:
                self.dropped += 1
                return
        self._lines.append(line)
        self._bytes += len(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_EVERY_SECONDS, self._hand_over)

    def close(self) -> None:
        """Writes what is left, for at most a second."""
        if self._timer is not None:
            self._timer.cancel()
        self._hand_over()
        self._batches.put(None)
        self._writer.join(_CLOSE_SECONDS)

    def _hand_over(self) -> None:
        self._timer = None
        if self._lines:
            self._batches.put(b"".join(self._lines))
            self._lines.clear()
        self._settle()

    def _settle(self) -> None:
        while not self._written.empty():
            self._bytes -= self._written.get()

    def _write(self) -> None:
        while (batch := self._batches.get()) is not None:
            left = memoryview(batch)
            try:
                while left:
                    left = left[os.write(self._descriptor, left) :]
            except OSError as error:
                log.warning("lines of the access log are lost: %s", error)
            self._written.put(len(batch))
