"""The cycle's end of the gateway's control socket: route tables out, load reports in.

The gateway outlives the cycle's process, so the link connects again whenever the socket is there, and sends the
newest table first. A table is numbered when it differs from the last one sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from plinth.domain import control_lines
from plinth.domain.traffic import LoadReport, RouteTable

RECONNECT_SECONDS = 0.2
LINE_LIMIT_BYTES = 64 * 2**20


class GatewayLink:
    """The adapter behind the cycle's `Gateway` port."""

    def __init__(
        self, socket_path: Path, *, first_version: int, wake: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        """`first_version` must exceed any an earlier process sent (Unix milliseconds do)."""
        self._path = socket_path
        self._wake = wake
        self._clock = clock
        self._version = first_version
        self._table: RouteTable | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._report: LoadReport | None = None
        self._reported_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Keep a connection to the gateway from now on."""
        self._task = asyncio.create_task(self._keep_connected())

    async def close(self) -> None:
        """Let go of the gateway, which keeps serving by its last table."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def latest_report(self) -> tuple[LoadReport, float] | None:
        """The newest report and when it came (Unix seconds)."""
        return (self._report, self._reported_at) if self._report is not None else None

    def send(self, table: RouteTable, *, unknown: frozenset[str] = frozenset()) -> int:  # noqa: ARG002 - one Ray
        """Make this the gateway's table; returns the version it has. An unchanged table is not sent again.

        With one Ray either all replicas are known or none, and then nothing is sent: `unknown` is always empty.
        """
        current = self._table
        if current is None or replace(table, version=current.version) != current:
            self._version += 1
            self._table = replace(table, version=self._version)
            self._transmit(control_lines.encode_table(self._table))
        return self._version

    def shut_down(self, deadline_seconds: float) -> None:
        """Ask the gateway to finish what is in flight, for so long at most, and exit."""
        self._transmit(control_lines.encode_shutdown(deadline_seconds))

    def _transmit(self, line: bytes) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(line)

    async def _keep_connected(self) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
                await self._converse()
            self._writer = None
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _converse(self) -> None:
        reader, writer = await asyncio.open_unix_connection(str(self._path), limit=LINE_LIMIT_BYTES)
        self._writer = writer
        try:
            if self._table is not None:
                writer.write(control_lines.encode_table(self._table))
            while line := await reader.readline():
                message = control_lines.decode_line(line)
                if isinstance(message, LoadReport):
                    self._accept(message)
        finally:
            writer.close()

    def _accept(self, report: LoadReport) -> None:
        previous = self._report
        self._report = report
        self._reported_at = self._clock()
        if previous is None or _asks_for_a_pass(previous, report):
            self._wake()


def _asks_for_a_pass(before: LoadReport, now: LoadReport) -> bool:
    """Whether the cycle should look at once and not at its next turn: load moved, or a replica changed state."""
    if before.replicas.keys() != now.replicas.keys() or before.models.keys() != now.models.keys():
        return True
    if any(
        then.state != now.replicas[slot].state or (then.in_flight == 0) != (now.replicas[slot].in_flight == 0)
        for slot, then in before.replicas.items()
    ):
        return True
    return any(
        load.peak > before.models[model].peak or (load.queued > 0) != (before.models[model].queued > 0)
        for model, load in now.models.items()
    )
