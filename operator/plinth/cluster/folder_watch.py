"""Says when something in the watched folder may have changed; what changed is for the reader to see.

Watches the folder, its subfolders and, so that the folder itself may be replaced or be a link that is turned
elsewhere, the folders that it lies in. Files are watched through their folders: editors save by renaming.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator
from enum import Enum
from pathlib import Path

from watchfiles import Change, awatch

STEP_MILLISECONDS = 25
"""A change is passed on once this long has gone by without another one…"""
DEBOUNCE_MILLISECONDS = 60
"""…or this long in all."""
RECHECK_SECONDS = 0.3
"""After something vanished, a second notice: a reader that waits out an editor's rename sees it then."""
_HEARTBEAT_SECONDS = 5.0
_RETRY_SECONDS = 0.05
MAX_FOLDERS = 1_000

Places = dict[Path, tuple[int, int]]
"""Folders to watch, each with its device and inode: one that was replaced must be watched anew."""


class _Notice(Enum):
    STARTED = "the watcher is in place"
    CHANGED = "something changed, or vanished a while ago"
    BEAT = "nothing happened for a while"


async def watch(folder: Path) -> AsyncIterator[None]:
    """Yields within 100 ms of a change in the folder; also now and then when nothing of note changed.

    Goes on while the folder is missing, and yields when it is back. Cancel the task that iterates to end it (a
    timeout around `anext` would end it too).
    """
    folder = folder.expanduser().absolute()
    restarted = False
    while True:
        places = find_places(folder)
        try:
            async with contextlib.aclosing(_follow(folder, places)) as notices:
                async for notice in notices:
                    # Between the end of one watcher and the start of the next a change may have gone unseen.
                    if notice is _Notice.CHANGED or (notice is _Notice.STARTED and restarted):
                        yield
                    if find_places(folder) != places:
                        break
        except FileNotFoundError:  # a folder went between finding it and watching it
            await asyncio.sleep(_RETRY_SECONDS)
        restarted = True


def find_places(folder: Path) -> Places:
    """Every folder to watch, so that no change in or of the folder goes unseen."""
    found: Places = {}
    real = Path(os.path.realpath(folder))
    for outside in (folder.parent, real.parent):
        existing = next(path for path in (outside, *outside.parents) if path.is_dir())
        _add(found, existing)
    for inside, subfolders, _ in os.walk(real):
        subfolders[:] = [name for name in subfolders if not is_passed_over(name)]
        _add(found, Path(inside))
        if len(found) >= MAX_FOLDERS:
            break
    return found


def is_passed_over(name: str) -> bool:
    """Whether a folder entry is hidden or holds secrets: no resources are read from it."""
    return name.startswith(".") or name == "secrets"


def _add(found: Places, path: Path) -> None:
    with contextlib.suppress(OSError):
        status = path.stat()
        found[path] = (status.st_dev, status.st_ino)


async def _follow(folder: Path, places: Places) -> AsyncGenerator[_Notice, None]:
    """Notices from one set of places."""
    inside = set(find_inside(folder, places))

    def matters(_: Change, changed: str) -> bool:
        path = Path(changed)
        if path.parent in inside:
            # A ConfigMap mounted as a folder changes by its link `..data` alone.
            return path.name == "..data" or not is_passed_over(path.name)
        return path in inside or path == folder or path in folder.parents

    changes = awatch(
        *places,
        watch_filter=matters,
        step=STEP_MILLISECONDS,
        debounce=DEBOUNCE_MILLISECONDS,
        recursive=False,
        ignore_permission_denied=True,
    )
    loop = asyncio.get_running_loop()
    recheck_at = math.inf
    pending = asyncio.ensure_future(anext(changes))
    try:
        await asyncio.sleep(0)  # lets the task above put the watcher in place
        yield _Notice.STARTED
        while True:
            patience = min(_HEARTBEAT_SECONDS, recheck_at - loop.time())
            await asyncio.wait({pending}, timeout=max(0.0, patience))
            if pending.done():
                if any(change is Change.deleted for change, _ in pending.result()):
                    recheck_at = loop.time() + RECHECK_SECONDS
                pending = asyncio.ensure_future(anext(changes))
                yield _Notice.CHANGED
            elif loop.time() >= recheck_at:
                recheck_at = math.inf
                yield _Notice.CHANGED
            else:
                yield _Notice.BEAT
    finally:
        pending.cancel()
        with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, FileNotFoundError):
            await pending
        await changes.aclose()


def find_inside(folder: Path, places: Places) -> list[Path]:
    """Those of the places that are the folder or lie in it."""
    real = Path(os.path.realpath(folder))
    return [place for place in places if place == real or real in place.parents]
