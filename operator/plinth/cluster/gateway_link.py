"""The cycle's `Gateway` port where there is one gateway on the same machine: its control socket, tables numbered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from plinth.cluster.control_link import ControlLink
from plinth.domain.access import AccessTable
from plinth.domain.load_reports import asks_for_a_pass
from plinth.domain.traffic import LoadReport, RouteTable


class GatewayLink:
    """The adapter behind the cycle's `Gateway` port. A table is numbered when it differs from the last one sent."""

    def __init__(
        self, socket_path: Path, *, first_version: int, wake: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        """`first_version` must exceed any an earlier process sent (Unix milliseconds do)."""
        self._link = ControlLink(socket_path, on_report=self._accept)
        self._wake = wake
        self._clock = clock
        self._version = first_version
        self._report: LoadReport | None = None
        self._reported_at = 0.0

    def start(self) -> None:
        """Keep a connection to the gateway from now on."""
        self._link.start()

    async def close(self) -> None:
        """Let go of the gateway, which keeps serving by its last table."""
        await self._link.close()

    def latest_report(self) -> tuple[LoadReport, float] | None:
        """The newest report and when it came (Unix seconds)."""
        return (self._report, self._reported_at) if self._report is not None else None

    def send(self, table: RouteTable, *, unknown: frozenset[str] = frozenset()) -> int:  # noqa: ARG002 - one Ray
        """Make this the gateway's table; returns the version it has. An unchanged table is not sent again.

        With one Ray either all replicas are known or none, and then nothing is sent: `unknown` is always empty.
        """
        current = self._link.table
        if current is None or table.models != current.models:
            self._version += 1
            self._link.hand_over(replace(table, version=self._version))
        return self._version

    def admit_by(self, table: AccessTable) -> None:
        """Make this what the gateway admits callers by."""
        self._link.admit_by(table)

    def shut_down(self, deadline_seconds: float) -> None:
        """Ask the gateway to finish what is in flight, for so long at most, and exit."""
        self._link.shut_down(deadline_seconds)

    def _accept(self, report: LoadReport) -> None:
        previous = self._report
        self._report = report
        self._reported_at = self._clock()
        if previous is None or asks_for_a_pass(previous, report):
            self._wake()
