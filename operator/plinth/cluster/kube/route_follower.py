"""A gateway's route table, followed from EndpointSlices: the heart of the agent beside each gateway.

The table outlives what it comes from: while the API server is away the last one stays, and it is kept in a file, so that
agent and gateway may be restarted meanwhile. Its version is the marker's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from plinth.cluster.kube.client import ENDPOINT_SLICE, KubeClient
from plinth.cluster.kube.reflector import Reflector
from plinth.desired.endpoint_slices import SELECTOR
from plinth.desired.slice_reading import route_table
from plinth.domain.control_lines import ControlLineError, decode_line, encode_table
from plinth.domain.traffic import RouteTable

SETTLE_SECONDS = 0.02
"""A replica and its header are written one after the other."""
PACE_SECONDS = 0.1
"""At least so long between two tables: each costs the gateway a moment."""
MOST_REASONS_LOGGED = 20

log = logging.getLogger(__name__)


class RouteFollower:
    """Hands over each new table; the saved one first."""

    def __init__(
        self,
        client: KubeClient,
        *,
        release_namespace: str,
        table_file: Path,
        hand_over: Callable[[RouteTable], None],
    ) -> None:
        self._release_namespace = release_namespace
        self._file = table_file
        self._hand_over = hand_over
        self._changed = asyncio.Event()
        self._slices = Reflector(client, ENDPOINT_SLICE, labels=SELECTOR, on_change=self._changed.set)
        self._table = RouteTable(version=0, models=())
        self._passed_over: tuple[str, ...] = ()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Hand over the saved table, if there is one, and follow the slices."""
        saved = load_table(self._file)
        if saved is not None:
            self._table = saved
            self._hand_over(saved)
        self._slices.start()
        self._task = asyncio.create_task(self._follow(), name="follow routes")

    async def close(self) -> None:
        """End following."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._slices.close()

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            self._changed.clear()
            try:
                self._take()
            except Exception:
                log.exception("the routes could not be taken over; the next change tries again")
            await asyncio.sleep(PACE_SECONDS)

    def _take(self) -> None:
        found = route_table(self._slices.items.values(), release_namespace=self._release_namespace)
        if found.passed_over != self._passed_over:
            self._passed_over = found.passed_over
            for reason in found.passed_over[:MOST_REASONS_LOGGED]:
                log.warning("not used: %s", reason)
        # Without a marker (somebody deleted it, or the first one is still to come) routes are a table all the same.
        version = found.table.version or self._table.version or (1 if found.table.models else 0)
        table = RouteTable(version=version, models=found.table.models)
        if table != self._table:
            self._table = table
            self._hand_over(table)
            save_table(self._file, table)


def load_table(path: Path) -> RouteTable | None:
    """The table that an earlier process saved."""
    try:
        message = decode_line(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ControlLineError) as error:
        log.warning("the saved table %s cannot be used: %s", path, error)
        return None
    return message if isinstance(message, RouteTable) else None


def save_table(path: Path, table: RouteTable) -> None:
    """Keep a table for the next process; a file that cannot be written costs only that."""
    partial = path.with_suffix(".partial")
    try:
        partial.write_bytes(encode_table(table))
        partial.replace(path)
    except OSError as error:
        log.warning("the table cannot be saved to %s: %s", path, error)
