"""What every connection of one gateway process shares."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from plinth.domain.access import AccessTable
from plinth.gateway.access.callers import Gate
from plinth.gateway.options import Limits
from plinth.gateway.protocol.request import Request
from plinth.gateway.server.clock import BatchClock
from plinth.gateway.server.fleet import Fleet, News
from plinth.gateway.server.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plinth.gateway.server.client import ClientConnection

SWEEP_SECONDS = 0.5


class Core:
    """The shared state: fleet, metrics, limits, connections, whether the process drains."""

    def __init__(self, *, secret: str, limits: Limits, news: News) -> None:
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.clock = BatchClock(self.loop)
        self.metrics = Metrics()
        self.metrics.read_gauges_from(self._gauges)
        self.fleet = Fleet(secret=secret, limits=limits, metrics=self.metrics, news=news)
        self.identity = f"{os.getpid():x}-{os.urandom(6).hex()}"
        self.gate: Gate | None = None
        """Without an access table nobody is let in: one that requires keys may be on its way."""
        self.draining = False
        self.body_bytes = 0
        """Request bodies held now, all connections together."""
        self.connections: set[ClientConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = 0
        self._id_prefix = f"req-{os.urandom(6).hex()}-".encode()
        self._sweep: asyncio.TimerHandle | None = None

    def admit_by(self, table: AccessTable) -> None:
        """From now on callers are let in by this table; requests that were let in go on."""
        self.gate = Gate(table)

    def next_number(self) -> int:
        """Counts requests, in order of arrival."""
        self._numbers += 1
        return self._numbers

    def make_request_id(self) -> bytes:
        """For a request whose client gave none."""
        return b"%s%x" % (self._id_prefix, self.next_number())

    def keeps_alive(self, request: Request) -> bool:
        """Whether the client's connection is used again after this request."""
        return request.keep_alive and request.chunked_ok and not self.draining

    def hold_body(self, delta: int) -> None:
        """Counts request bytes in (positive) or out (negative)."""
        self.body_bytes += delta

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs a short task and keeps it from being collected."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def add(self, connection: ClientConnection) -> None:
        """A client came; time limits are watched while there is one."""
        self.connections.add(connection)
        if self._sweep is None:
            self._sweep = self.loop.call_later(SWEEP_SECONDS, self._watch_limits)

    def active(self) -> int:
        """Connections with a request in hand."""
        return sum(connection.is_busy() for connection in self.connections)

    def _watch_limits(self) -> None:
        self._sweep = None
        now = time.perf_counter()
        for connection in list(self.connections):
            connection.check(now)
        monotonic = time.monotonic()
        self.fleet.expire(monotonic)
        self.fleet.close_idle_connections(monotonic - self.limits.pool_idle_seconds)
        if self.connections or self.fleet.has_idle_connections():
            self._sweep = self.loop.call_later(SWEEP_SECONDS, self._watch_limits)

    def _gauges(self) -> Iterable[tuple[str, str, list[str], list[tuple[list[str], float]]]]:
        models = self.fleet.models.values()
        states: dict[tuple[str, str], int] = {}
        for model in models:
            for replica in model.replicas:
                key = (model.name, replica.state().value)
                states[key] = states.get(key, 0) + 1
        yield "in_flight_requests", "At replicas now.", ["model"], [([m.name], len(m.calls)) for m in models]
        yield "queued_requests", "Held for room now.", ["model"], [([m.name], len(m.queue)) for m in models]
        yield (
            "replicas",
            "Replicas as the gateway sees them.",
            ["model", "state"],
            [(list(key), count) for key, count in states.items()],
        )
        yield "connections", "Client connections open now.", [], [([], len(self.connections))]
        yield "held_body_bytes", "Request bodies held now.", [], [([], self.body_bytes)]
        yield "route_table_version", "The newest table applied.", [], [([], self.fleet.version)]
