"""The cycle's `Gateway` port in a cluster: any number of gateways, told by EndpointSlices, heard over HTTP, as one.

A table gets a version of ours; a gateway has it once it has seen the marker that was written after all of the table's
slices. So "which table has it applied" means the same here as on one machine, and a gateway that has not yet heard of a
drain is never mistaken for one that has nothing to drain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.report_reader import REPORT_PORT, ReportReader
from plinth.cluster.kube.slice_writer import FindOwner, SliceWriter
from plinth.domain.load_reports import ReportSum, asks_for_a_pass
from plinth.domain.traffic import LoadReport, ReplicaState, RouteTable


class SliceGateway:
    """The adapter behind the cycle's `Gateway` port, for the time that one process leads."""

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        token_file: Path,
        find_owner: FindOwner,
        first_version: int,
        wake: Callable[[], None],
        clock: Callable[[], float],
        report_port: int = REPORT_PORT,
    ) -> None:
        """`client` is fenced. Versions begin above `first_version` (Unix milliseconds) and above the last leader's."""
        self._writer = SliceWriter(client, release_namespace=namespace, find_owner=find_owner)
        self._reader = ReportReader(
            client,
            namespace=namespace,
            token_file=token_file,
            clock=clock,
            on_news=self._take_news,
            port=report_port,
        )
        self._wake = wake
        self._table = RouteTable(version=first_version, models=())
        self._unknown: frozenset[str] = frozenset()
        self._sent = False
        self._draining: dict[str, int] = {}
        """Slots that are to drain, with the first table that said so."""
        self._sum = ReportSum(f"sum-{first_version}")
        self._report: tuple[LoadReport, float] | None = None

    async def start(self) -> None:
        """Begin to follow slices and gateways; returns once the slices that there are have been seen."""
        self._reader.start()
        before = await self._writer.start()
        self._table = replace(self._table, version=max(before, self._table.version))

    async def close(self) -> None:
        """Let go; the gateways keep serving by the slices as they are."""
        await self._reader.close()
        await self._writer.close()

    def latest_report(self) -> tuple[LoadReport, float] | None:
        """All gateways' load as one report, and when the newest of them came; None while one of them is silent."""
        if self._reader.latest() is None:
            self._report = None
        return self._report

    def send(self, table: RouteTable, *, unknown: frozenset[str] = frozenset()) -> int:
        """Make this the gateways' table, but for the slices of the unknown models; returns its version."""
        if self._sent and unknown == self._unknown and table.models == self._table.models:
            return self._table.version
        version = self._table.version + 1
        self._sent, self._unknown = True, unknown
        self._table = RouteTable(version=version, models=table.models)
        self._draining = {
            replica.slot: self._draining.get(replica.slot, version)
            for route in table.models
            for replica in route.replicas
            if replica.state is ReplicaState.DRAINING
            # Of an unknown model only what was written before has been said to anyone.
            and (route.model not in unknown or replica.slot in self._draining)
        }
        self._writer.want(self._table, unknown)
        return version

    def _take_news(self) -> None:
        latest = self._reader.latest()
        if latest is None:
            return
        reports, at = latest
        before, now = self._report, self._sum.add(reports, self._draining)
        self._report = now, at
        if before is None or asks_for_a_pass(before[0], now):
            self._wake()
