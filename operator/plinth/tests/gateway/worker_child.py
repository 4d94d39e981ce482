"""A worker as tests start it: the production connections, fleet and channel, put together in one small process.

`python -m plinth.tests.gateway.worker_child FOLDER --worker PLACE`; does not come up where FOLDER/broken exists.
On SIGUSR1 it writes the metrics of all workers to FOLDER/metrics.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from functools import partial
from operator import attrgetter
from pathlib import Path

import uvloop

from plinth.domain.load_reports import TOTALS
from plinth.gateway.options import Limits
from plinth.gateway.server.client import ClientConnection
from plinth.gateway.server.core import Core
from plinth.gateway.server.shared_load import LoadBoard, ModelShare
from plinth.gateway.server.worker import WorkerControl, WorkerHooks
from plinth.gateway.server.worker_lines import Place, Seats
from plinth.tests.gateway.harness import SECRET


class WorkerChild:
    def __init__(self, folder: Path, place: Place) -> None:
        self._folder = folder
        self._place = place
        self._board = LoadBoard.join(place.memory, lanes=place.lanes, lane=place.lane)
        self._shares: dict[str, ModelShare] = {}
        self._over = asyncio.Event()
        self._draining = False
        self._server: asyncio.Server | None = None
        self.control = WorkerControl(
            WorkerHooks(
                on_seats=self._on_seats,
                on_table=lambda table: self.core.fleet.apply(table),  # noqa: PLW0108 - the core comes after
                on_access=lambda table: self.core.admit_by(table),  # noqa: PLW0108 - the core comes after
                on_listen=lambda: self.core.spawn(self._listen()),
                on_shutdown=lambda seconds: self.core.spawn(self._drain(seconds)),
                make_report=lambda: self.core.fleet.report(self.core.identity),
                is_busy=lambda: self.core.fleet.is_busy(),  # noqa: PLW0108 - the same
                make_exposition=lambda: self.core.metrics.text().decode(),
                drain_seconds=1.0,
            )
        )
        self.core = Core(secret=SECRET, limits=Limits(), news=self.control)
        self._mark_changed = self.core.fleet.mark_changed
        self.core.fleet.mark_changed = self._publish  # type: ignore[method-assign] # at every change

    async def run(self) -> None:
        await self.control.join(self._place.control)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: self.core.spawn(self._show_metrics()))
        await self._over.wait()
        self.control.close()
        self.core.fleet.close()
        await asyncio.sleep(0.01)

    async def _listen(self) -> None:
        listener = socket.socket(fileno=self._place.listener)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(partial(ClientConnection, self.core), sock=listener)
        self.control.listening()

    async def _drain(self, seconds: float) -> None:
        if self._server is not None:
            self._server.close()
        self.core.draining = True
        until = asyncio.get_running_loop().time() + seconds
        while self.core.active() and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.01)
        self._over.set()

    async def _show_metrics(self) -> None:
        text = await self.control.exposition()
        (self._folder / "metrics.new").write_text(text)
        (self._folder / "metrics.new").rename(self._folder / "metrics")

    def _on_seats(self, seats: Seats) -> None:
        self._shares = {name: ModelShare(self._board, seat) for name, seat in seats.models.items()}

    def _publish(self) -> None:
        self._mark_changed()
        for name, model in self.core.fleet.models.items():
            totals = model.totals
            values = {name: getattr(totals, name.removesuffix("_total"), 0) for name in TOTALS}
            objectives = attrgetter("ttft_met", "ttft_missed", "tpot_met", "tpot_missed")(totals.objectives)
            self._shares[name].publish_counts((*tuple(values.values())[:4], *objectives))


async def main() -> None:
    folder = Path(sys.argv[1])
    if (folder / "broken").exists():
        sys.exit(3)
    await WorkerChild(folder, Place.from_argument(sys.argv[3])).run()


if __name__ == "__main__":
    uvloop.run(main())
