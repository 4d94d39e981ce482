"""What the followers of a gateway's two tables have in common: when they look, and how a table outlives its process.

While the API server is away the last table stays, and it is kept in a file, so that agent and gateway may be restarted
meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from plinth.cluster.kube.reflector import Reflector
from plinth.domain.control_lines import ControlLineError, decode_line

SETTLE_SECONDS = 0.02
"""What belongs together is often written one after the other."""
PACE_SECONDS = 0.1
"""At least so long between two tables: each costs the gateway a moment."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class Following:
    """Looks after each change; not before the objects of all reflectors were seen once."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._changed = asyncio.Event()
        self.notice = self._changed.set
        """What a reflector calls when something changed."""
        self._reflectors: tuple[Reflector, ...] = ()
        self._task: asyncio.Task[None] | None = None

    def start(self, *reflectors: Reflector) -> None:
        """Begin to follow these."""
        self._reflectors = reflectors
        for each in reflectors:
            each.start()
        self._task = asyncio.create_task(self._follow(), name="follow a table")

    async def close(self) -> None:
        """End following."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for each in self._reflectors:
            await each.close()

    async def _follow(self) -> None:
        for each in self._reflectors:
            await each.wait_synced()
        while True:
            await self._changed.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            self._changed.clear()
            try:
                self._look()
            except Exception:
                log.exception("what changed could not be taken over; the next change tries again")
            await asyncio.sleep(PACE_SECONDS)


def load_table(path: Path, kind: type[T]) -> T | None:
    """The table that an earlier process saved."""
    try:
        message = decode_line(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ControlLineError) as error:
        log.warning("the saved table %s cannot be used: %s", path, error)
        return None
    return message if isinstance(message, kind) else None


def save_table(path: Path, line: bytes) -> None:
    """Keep a table for the next process, for its owner alone; a file that cannot be written costs only that."""
    partial = path.with_suffix(".partial")
    try:
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(line)
        partial.replace(path)
    except OSError as error:
        log.warning("the table cannot be saved to %s: %s", path, error)
