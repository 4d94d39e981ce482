"""One worker at a time on a piece of the shared cache, across all replicas of a node."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plinth.engine.seam import Progress


@contextmanager
def only_one(lock: Path, waiting: str, progress: Progress) -> Iterator[None]:
    """Hold the lock file; while another holds it, say `waiting` and wait. The kernel frees it if the holder dies."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.saying(waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
