"""A connection to a gateway's control socket that is kept up: tables out, load reports in.

The gateway outlives those who speak to it and they outlive it, so the link connects again whenever the socket is there,
and the newest tables go first: who may ask, then what there is to ask for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from plinth.domain import control_lines
from plinth.domain.access import AccessTable
from plinth.domain.traffic import LoadReport, RouteTable

RECONNECT_SECONDS = 0.2
LINE_LIMIT_BYTES = 64 * 2**20


class ControlLink:
    """One gateway, by its socket."""

    def __init__(
        self,
        socket_path: Path,
        *,
        on_report: Callable[[LoadReport], None],
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = socket_path
        self._on_report = on_report
        self._on_lost = on_lost
        self._table: RouteTable | None = None
        self._access: AccessTable | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def table(self) -> RouteTable | None:
        """The route table last handed over."""
        return self._table

    @property
    def connected(self) -> bool:
        """Whether the gateway is there."""
        return self._writer is not None

    def start(self) -> None:
        """Keep a connection to the gateway from now on."""
        self._task = asyncio.create_task(self._keep_connected(), name="link to the gateway")

    async def close(self) -> None:
        """Let go of the gateway, which keeps serving by its last table."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def hand_over(self, table: RouteTable) -> None:
        """Make this the gateway's route table, now and whenever it is met again."""
        self._table = table
        self._transmit(control_lines.encode_table(table))

    def admit_by(self, table: AccessTable) -> None:
        """Make this the gateway's access table, now and whenever it is met again; without one it admits nobody."""
        self._access = table
        self._transmit(control_lines.encode_access(table))

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
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _converse(self) -> None:
        reader, writer = await asyncio.open_unix_connection(str(self._path), limit=LINE_LIMIT_BYTES)
        self._writer = writer
        try:
            if self._access is not None:
                writer.write(control_lines.encode_access(self._access))
            if self._table is not None:
                writer.write(control_lines.encode_table(self._table))
            while line := await reader.readline():
                message = control_lines.decode_line(line)
                if isinstance(message, LoadReport):
                    self._on_report(message)
        finally:
            self._writer = None
            writer.close()
            self._on_lost()
