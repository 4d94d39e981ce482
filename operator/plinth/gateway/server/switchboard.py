"""Between the controller and the workers of one gateway: lines out to all, reports and metrics back as one.

The newest line of each type is kept for workers that start later. A worker's report counts from the moment that it
accepts clients; until then it sends nobody anywhere and must not hold the others' table version back.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Final

from plinth.domain.access import AccessTable
from plinth.domain.control_lines import ControlLineError, Shutdown, decode_line
from plinth.domain.traffic import LoadReport, RouteTable
from plinth.gateway.server import worker_lines
from plinth.gateway.server.control import ControlConnection, ControlServer
from plinth.gateway.server.merged_metrics import MetricsMerge
from plinth.gateway.server.merged_reports import ReportMerge, is_urgent
from plinth.gateway.server.seating import Seating
from plinth.gateway.server.shared_load import LoadBoard
from plinth.gateway.server.worker_lines import Exposition, Listen, Listening, Scrape
from plinth.gateway.server.worker_process import WorkerProcess
from plinth.gateway.telemetry.families import ENDING

log = logging.getLogger(__name__)

SCRAPE_SECONDS: Final = 0.3
"""That workers get to tell their metrics; of one that is late the last ones known are shown."""
GAUGES: Final = {
    "plinth_gateway_replicas": max,  # each worker sees all of them
    "plinth_gateway_shared_counts_away": max,
    "plinth_gateway_route_table_version": min,
    "process_start_time_seconds": min,
}
"""Those that are not added up."""


class ParentControl(ControlServer):
    """The gateway's control socket; what comes is for the workers."""

    def __init__(self, switchboard: Switchboard, on_shutdown: Callable[[float], None]) -> None:
        super().__init__(
            on_table=switchboard.on_table,
            on_access=lambda _: None,  # the workers' business, to whom every line is passed on
            on_shutdown=on_shutdown,
            make_report=switchboard.reports.report,
            is_busy=switchboard.reports.is_busy,
        )
        self._switchboard = switchboard

    def on_line(self, connection: ControlConnection, line: bytes) -> None:
        """One message of the controller; a wrong one is logged and goes no further."""
        if connection is not self._current:
            return
        super().on_line(connection, line)
        self._switchboard.pass_on(line)


class Switchboard:
    """Knows the workers by their lines only; their lives are the pool's."""

    def __init__(
        self, board: LoadBoard, wakes: tuple[int, ...], on_shutdown: Callable[[float], None]
    ) -> None:
        self.reports = ReportMerge(f"{os.getpid():x}-{os.urandom(6).hex()}")
        self.metrics = MetricsMerge(GAUGES, ENDING)
        self.control = ParentControl(self, on_shutdown)
        self.workers: dict[int, WorkerProcess] = {}
        """By pid: those alive."""
        self.deaths = 0
        """Workers that ended without having been told to."""
        self._board = board
        self._wakes = wakes
        self._seating = Seating()
        self._version = 0
        self._newest: dict[type, bytes] = {}
        self._scrapes: dict[int, Scraping] = {}
        self._scrape_number = 0
        self._tasks: set[asyncio.Task[None]] = set()

    # The controller's lines.

    def on_table(self, table: RouteTable) -> None:
        """Gives seats out, before the table itself is passed on."""
        self._version = table.version
        seats = self._seating.apply(table)
        for worker in self.workers.values():
            worker.tell(seats)

    def pass_on(self, line: bytes) -> None:
        """Hands a line to every worker, and to those to come."""
        try:
            message = decode_line(line)
        except ControlLineError:
            return
        if not isinstance(message, (Shutdown, LoadReport)):
            line = line.rstrip() + b"\n"
            self._newest[type(message)] = line
            for worker in self.workers.values():
                worker.send(line)

    def has_tables(self) -> bool:
        """Whether it has been told what to serve, and to whom."""
        return self._newest.keys() >= {RouteTable, AccessTable}

    # The workers' lives and lines.

    def welcome(self, worker: WorkerProcess) -> None:
        """Tells a new worker all there is to know."""
        self.workers[worker.pid] = worker
        worker.tell(self._seating.seats())
        for line in self._newest.values():
            worker.send(line)
        worker.tell(Listen())

    def on_line(self, worker: WorkerProcess, line: bytes) -> None:
        """One line of a worker's."""
        try:
            message = worker_lines.decode(line) or decode_line(line)
        except ValueError as error:
            log.warning("line of worker %d ignored: %s", worker.pid, error)
            return
        if isinstance(message, LoadReport):
            self._on_report(worker, message)
        elif isinstance(message, Listening):
            worker.set_listening(True)
        elif isinstance(message, Scrape):
            self._spawn_scrape(worker, message.number)
        elif isinstance(message, Exposition):
            self.metrics.take(worker.pid, message.text)
            if (scraping := self._scrapes.get(message.number)) is not None:
                scraping.answered(worker.pid)

    def bury(self, worker: WorkerProcess) -> None:
        """A worker is dead: keeps what it has counted, takes out what it had in flight."""
        del self.workers[worker.pid]
        worker.set_listening(False)
        self.deaths += not worker.leaving
        models = self._seating.models
        self.reports.bury(
            worker.pid, {name: self._board.counts(seat, worker.lane) for name, seat in models.items()}
        )
        self.metrics.bury(worker.pid)
        self._board.clear(worker.lane, replicas=range(self._seating.highest), models=models.values())
        for other in self.workers.values():
            os.eventfd_write(self._wakes[other.lane], 1)  # there is room where its requests were
        for scraping in self._scrapes.values():
            scraping.answered(worker.pid)
        self.control.report_now()

    def _on_report(self, worker: WorkerProcess, report: LoadReport) -> None:
        before, worker.report = worker.report, report
        if not worker.listening:
            return
        self.reports.take(worker.pid, report)
        if all(item.report and item.report.table_version == self._version for item in self.workers.values()):
            self._seating.take_back(self._board.in_flight)
        if is_urgent(before, report):
            self.control.report_now()
        else:
            self.control.report_soon()

    # Metrics.

    def _spawn_scrape(self, worker: WorkerProcess, number: int) -> None:
        task = asyncio.get_running_loop().create_task(self._scrape(worker, number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def exposition(self) -> str:
        """What all workers have counted."""
        self._scrape_number += 1
        mine = self._scrape_number
        scraping = self._scrapes[mine] = Scraping(set(self.workers))
        for worker in self.workers.values():
            worker.tell(Scrape(mine))
        await scraping.wait(SCRAPE_SECONDS)
        del self._scrapes[mine]
        return self.metrics.text(self._own_metrics())

    async def _scrape(self, asker: WorkerProcess, number: int) -> None:
        asker.tell(Exposition(number, await self.exposition()))

    def _own_metrics(self) -> str:
        listening = sum(worker.listening for worker in self.workers.values())
        return (
            "# HELP plinth_gateway_workers Processes that accept clients.\n"
            "# TYPE plinth_gateway_workers gauge\n"
            f"plinth_gateway_workers {listening}\n"
            "# HELP plinth_gateway_worker_deaths_total Workers that ended unasked.\n"
            "# TYPE plinth_gateway_worker_deaths_total counter\n"
            f"plinth_gateway_worker_deaths_total {self.deaths}\n"
        )


class Scraping:
    """Waits for the metrics of several workers."""

    def __init__(self, asked: set[int]) -> None:
        self._missing = asked
        self._complete = asyncio.Event()

    def answered(self, pid: int) -> None:
        """This one has told them, or never will."""
        self._missing.discard(pid)
        if not self._missing:
            self._complete.set()

    async def wait(self, seconds: float) -> None:
        """Returns when all have answered, or after so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._complete.wait()
        except TimeoutError:
            log.warning("no metrics of workers %s in %g s", sorted(self._missing), seconds)
