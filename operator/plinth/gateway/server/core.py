"""What every connection of one gateway process shares."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from plinth.domain.access import AccessTable
from plinth.gateway.access.callers import Caller, Gate
from plinth.gateway.limits.admission import Limiter
from plinth.gateway.limits.estimates import TokenEstimates
from plinth.gateway.limits.sharing import Sharing
from plinth.gateway.options import Options
from plinth.gateway.protocol.request import Request
from plinth.gateway.server.afterwards import make_afterwards
from plinth.gateway.server.clock import BatchClock
from plinth.gateway.server.fleet import Fleet, News
from plinth.gateway.server.leases import Leases, LeaseTimes
from plinth.gateway.server.metrics import Metrics
from plinth.gateway.server.peers import Peers
from plinth.gateway.server.replica import ReplicaSetup
from plinth.gateway.server.response_cache import ResponseCache
from plinth.gateway.server.seating import Shares
from plinth.gateway.server.tls import ClientTls, ServerTls
from plinth.gateway.shared_options import Shared
from plinth.gateway.telemetry.tracing import FRESH_BYTES, Trace, join_trace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plinth.gateway.server.answer import Attended
    from plinth.gateway.server.client import ClientConnection

log = logging.getLogger(__name__)

SWEEP_SECONDS: Final = 0.5
REVIEW_SECONDS: Final = 1.0
"""Between two reviews of how fast replicas are."""
TRACE_PARENT: Final = b"traceparent"
MOST_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""Of one answer that is kept or shared."""


class Core:
    """The shared state: who may ask, fleet, limits, cache, metrics, connections, whether the process drains."""

    def __init__(self, *, secret: str, options: Options, news: News, peers: Peers | None = None) -> None:
        """Raises OSError, ssl.SSLError or ValueError where certificates cannot be used."""
        self.limits = limits = options.limits
        self.peers = peers
        self.loop = asyncio.get_running_loop()
        self.clock = BatchClock(self.loop)
        self.metrics = Metrics()
        self.metrics.read_gauges_from(self._gauges)
        self.identity = f"{os.getpid():x}-{os.urandom(6).hex()}"
        self.gate: Gate | None = None
        """Without an access table nobody is let in: one that requires keys may be on its way."""
        self.estimates = TokenEstimates()
        self.leases: Leases | None = None
        """Where several gateways, or the workers of one, count together."""
        self.limiter = self._make_limiter(options.shared)
        self.cache = _make_cache(options.shared)
        self.afterwards = make_afterwards(options.telling, self.identity)
        self.traces_share = options.telling.traces_share if options.telling.traces_url else None
        """Of requests without a trace of their own, those to trace; None where nobody collects them."""
        self.server_tls = ServerTls(options.clients_tls) if options.clients_tls.certificate else None
        replica_tls = _make_replica_tls(options)
        self._tls = [each for each in (self.server_tls, replica_tls) if each is not None]
        self.metrics.read_families_from(self.afterwards.families)
        self.fleet = Fleet(
            setup=ReplicaSetup(
                secret=secret,
                limits=limits,
                shares=peers.shares if peers is not None else Shares(),
                tls=replica_tls,
            ),
            metrics=self.metrics,
            news=news,
            peers=peers,
        )
        self.draining = False
        self.shows_metrics = options.metrics_port is None
        """To clients: there is no port for them alone."""
        self.body_bytes = 0
        """Request bodies held now, all connections together."""
        self.connections: set[ClientConnection] = set()
        self.unattended: set[Attended] = set()
        """Calls without a connection: copies, and answers that only others wait for."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = 0
        self._id_prefix = f"req-{os.urandom(6).hex()}-".encode()
        self._sweep: asyncio.TimerHandle | None = None
        self._reviewed_at = 0.0
        if self._tls:
            self._sweep = self.loop.call_later(SWEEP_SECONDS, self._watch_limits)

    def admit_by(self, table: AccessTable) -> None:
        """From now on callers are let in by this table; requests that were let in go on."""
        self.gate = Gate(table)
        self.limiter.forget_accounts()

    def has_tables(self) -> bool:
        """Whether it has been told what to serve, and to whom."""
        return self.fleet.version != 0 and self.gate is not None

    def names_for(self, caller: Caller) -> list[str]:
        """The first name of every model that this caller may ask for, in order."""
        models = self.fleet.models.values()
        return sorted(
            model.route.names[0]
            for model in models
            if model.route.names and caller.terms(model.name) is not None
        )

    def next_number(self) -> int:
        """Counts requests, in order of arrival."""
        self._numbers += 1
        return self._numbers

    def make_request_id(self) -> bytes:
        """For a request whose client gave none."""
        return b"%s%x" % (self._id_prefix, self.next_number())

    def trace(self, request: Request) -> Trace | None:
        """The trace that a request belongs to; its header goes on to the replica."""
        share = self.traces_share
        if share is None:
            return None
        parent = next((value for name, value in request.headers if name == TRACE_PARENT), None)
        trace = join_trace(parent, fresh=os.urandom(FRESH_BYTES), share=share)
        request.headers = [item for item in request.headers if item[0] != TRACE_PARENT]
        request.headers.append(trace.header())
        return trace

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

    async def close(self) -> None:
        """Lets go of what is outside of the process."""
        self.fleet.close()
        if self._sweep is not None:
            self._sweep.cancel()
        if self.leases is not None:
            await self.leases.stop()
        if self.cache is not None:
            await self.cache.close()
        await self.afterwards.close()

    def active(self) -> int:
        """Connections with a request in hand."""
        return sum(connection.is_busy() for connection in self.connections)

    def _watch_limits(self) -> None:
        self._sweep = None
        now = time.monotonic()
        for connection in list(self.connections):
            connection.check(now)
        for call in list(self.unattended):
            call.check(now)
        self.fleet.expire(now)
        self.fleet.close_idle_connections(now - self.limits.pool_idle_seconds)
        if now - self._reviewed_at >= REVIEW_SECONDS:
            self._reviewed_at = now
            self.fleet.review(now)
            self._renew_certificates()
        # Without a sound certificate nobody gets as far as to be a connection: that one is looked for always.
        if self._tls or self.connections or self.fleet.has_idle_connections() or self.fleet.is_busy():
            self._sweep = self.loop.call_later(SWEEP_SECONDS, self._watch_limits)

    def _renew_certificates(self) -> None:
        for each in self._tls:
            if (why := each.refresh()) is not None:
                log.warning("%s", why)

    def _make_limiter(self, shared: Shared) -> Limiter:
        address = shared.redis or (self.peers.counters if self.peers is not None else None)
        if address is None:
            return Limiter()
        sharing = Sharing(self.identity)
        self.leases = Leases(address, sharing, LeaseTimes(answer=shared.redis_timeout_ms / 1000))
        self.leases.start()
        return sharing.limiter

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
        if self.leases is not None:
            away = float(self.leases.away)
            yield "shared_counts_away", "1 while limits are counted apart.", [], [([], away)]
        dropped = self.afterwards.dropped() | ({"answer": self.cache.dropped()} if self.cache else {})
        yield (
            "dropped",
            "Log lines, traces and kept answers that found no room on their way out, since the start.",
            ["what"],
            [([what], count) for what, count in dropped.items()],
        )
        yield "connections", "Client connections open now.", [], [([], len(self.connections))]
        yield "held_body_bytes", "Request bodies held now.", [], [([], self.body_bytes)]
        yield "route_table_version", "The newest table applied.", [], [([], self.fleet.version)]


def _make_replica_tls(options: Options) -> ClientTls | None:
    if options.replicas_tls.authority is None:
        return None
    return ClientTls(options.replicas_tls, options.replicas_name)


def _make_cache(shared: Shared) -> ResponseCache | None:
    if not shared.cache_bytes:
        return None
    return ResponseCache(
        most_bytes=shared.cache_bytes,
        answer_bytes=min(MOST_ANSWER_BYTES, shared.cache_bytes),
        flight_bytes=shared.cache_bytes,
        redis=shared.redis if shared.cache_place == "redis" else None,
    )
