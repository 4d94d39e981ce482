"""One worker of a gateway of several processes: serves as a gateway of one process does, and obeys its parent."""

from __future__ import annotations

import socket

from plinth.gateway.options import Options
from plinth.gateway.server.peers import join_peers
from plinth.gateway.server.serving import Serving
from plinth.gateway.server.worker import WorkerControl, WorkerHooks
from plinth.gateway.server.worker_lines import Place, Seats


class WorkerGateway(Serving):
    """One worker; `start`, then `wait`."""

    def __init__(self, options: Options, secret: str, place: Place) -> None:
        self._place = place
        self.control = WorkerControl(
            WorkerHooks(
                on_seats=self._on_seats,
                on_table=self.route_by,
                on_access=self.admit_by,
                on_listen=lambda: self.core.spawn(self._accept()),
                on_shutdown=self.drain,
                make_report=self.make_report,
                is_busy=self.is_busy,
                make_exposition=lambda: self.core.metrics.text().decode(),
                drain_seconds=options.limits.drain_seconds,
            )
        )
        self._peers = join_peers(place, exposition=self.control.exposition)
        super().__init__(options, secret, news=self.control, peers=self._peers)

    async def start(self) -> None:
        """Takes up the conversation with the parent, who says when clients are to be accepted."""
        await self.control.join(self._place.control)

    async def close(self) -> None:
        """Says what was left to say."""
        self.control.close()
        await super().close()

    def _on_seats(self, seats: Seats) -> None:
        self._peers.shares.apply(seats)

    async def _accept(self) -> None:
        if not self.core.draining:
            await self.listen(socket.socket(fileno=self._place.listener))
            self.control.listening()
