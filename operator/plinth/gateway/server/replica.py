"""One replica: how it stands, the connections to it, the requests at it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final, Protocol

from plinth.domain.traffic import ReplicaLoad, ReplicaRoute, ReplicaState
from plinth.gateway.options import Limits
from plinth.gateway.protocol.forward import upstream_prefix
from plinth.gateway.resume.pace import Pace
from plinth.gateway.routing.choice import Standing
from plinth.gateway.routing.placement import Placement
from plinth.gateway.server.question import ask
from plinth.gateway.server.seating import Shares
from plinth.gateway.server.sentinel import Sentinel, SentinelTimes
from plinth.gateway.server.tls import ClientTls
from plinth.gateway.server.upstream import ConnectionPool
from plinth.gateway.waiting.saturation import Saturation

_ASK_AGAIN_SECONDS: Final = 5.0
"""Between two questions to a replica that a request has heard nothing of."""


class AtReplica(Protocol):
    """A request as its replica knows it."""

    __slots__ = ()

    def on_replica_dead(self, detail: str, *, silent: bool) -> None:
        """The replica is dead: go elsewhere if no byte came yet."""


class ReplicaWatcher(Protocol):
    """What hears that a replica's readiness or life changed."""

    __slots__ = ()

    def on_replica_changed(self, replica: Replica, *, important: bool) -> None:
        """Requests may be given out anew; `important` changes are reported at once."""


@dataclass(frozen=True, kw_only=True)
class ReplicaSetup:
    """What all replicas of a gateway have in common."""

    secret: str
    """What they ask for."""
    limits: Limits
    shares: Shares
    tls: ClientTls | None = None
    """How they are spoken with; None in the clear."""


class Replica:
    """A slot of the table as this gateway sees it."""

    def __init__(self, route: ReplicaRoute, setup: ReplicaSetup, watcher: ReplicaWatcher) -> None:
        self.route = route
        self.standing = Standing(
            slot=route.slot,
            concurrency=route.concurrency,
            kv_tokens=route.kv_tokens,
            kind=route.kind,
            fault=route.fault,
        )
        self.share = setup.shares.replica(route, self.standing)
        self.standing.share = self.share
        self.calls: set[AtReplica] = set()
        self.pool = ConnectionPool(route.host, route.port, most_idle=max(1, route.concurrency), tls=setup.tls)
        self.prefix = upstream_prefix(path=route.path, host=route.host, port=route.port, secret=setup.secret)
        self.retired = False
        """No longer in the table; lives on until its requests have ended."""
        self.pace = Pace()
        """Of its streams: what silence is a hang."""
        self._limits = limits = setup.limits
        self._watcher = watcher
        self._dead: str | None = None
        self._suspected = False
        self._cooldown: asyncio.TimerHandle | None = None
        # Of several workers each sees its part of the streams, and learns from it what share of the plan is right.
        self._workers = setup.shares.lanes
        self._saturation = Saturation(-(-route.concurrency // self._workers), time.monotonic())
        self._asked_at = 0.0
        self._question: asyncio.Task[None] | None = None
        times = SentinelTimes(connect=limits.connect_seconds, check=limits.check_seconds)
        self._sentinel = Sentinel(self.pool, self, times, self.answers)
        self._refresh()

    def start(self) -> None:
        """Begins to watch the replica."""
        self._sentinel.start()

    def is_same_place(self, route: ReplicaRoute) -> bool:
        """Whether the route still names the same process."""
        mine = self.route
        return (mine.host, mine.port, mine.path) == (route.host, route.port, route.path)

    def update(self, route: ReplicaRoute) -> None:
        """Takes over a newer table's word about the same replica."""
        if route.concurrency != self.route.concurrency:
            self._saturation.plan(-(-route.concurrency // self._workers))
            self._follow_limit()
        self.route = route
        self.standing.kv_tokens, self.standing.kind = route.kv_tokens, route.kind
        self.standing.fault = route.fault
        self._refresh()

    def retire(self) -> None:
        """It has left the table: no new request, no watching; requests at it end in peace."""
        self.retired = True
        self._sentinel.stop()
        if self._question is not None:
            self._question.cancel()
        self.pool.close()
        if self._cooldown is not None:
            self._cooldown.cancel()
        self._refresh()

    def state(self) -> ReplicaState:
        """What is reported; death is seen before draining, since nothing will drain from the dead."""
        if self._dead is not None:
            return ReplicaState.DEAD
        return ReplicaState.DRAINING if self.retired else self.route.state

    def load(self) -> ReplicaLoad:
        """For the report."""
        return ReplicaLoad(in_flight=len(self.calls), state=self.state(), detail=self._dead or "")

    # Requests.

    def took(self, call: AtReplica, now: float, *, streamed: bool) -> None:
        """A request is sent here. `now` is monotonic, here and below."""
        self.calls.add(call)
        self._saturation.dispatched(now, streamed=streamed)

    def answered(self, now: float, *, streamed: bool) -> None:
        """The first bytes of a request's answer came."""
        if streamed:
            self._saturation.first_token(now)
            self._follow_limit()

    def ended(
        self, call: AtReplica, placement: Placement, now: float, *, streamed: bool, tpot: float | None
    ) -> None:
        """A request has left, whatever the end."""
        self.calls.discard(call)
        self._saturation.ended(now, answered=placement.answered or not streamed, tpot=tpot)

    def cool_down(self) -> None:
        """It answered 503: gives it no request for a moment, and fewer at once from then on."""
        self._saturation.refused(time.monotonic())
        self._follow_limit()
        if self._cooldown is None:
            loop = asyncio.get_running_loop()
            self._cooldown = loop.call_later(self._limits.cooldown_seconds, self._end_cooldown)
            self._refresh()

    async def answers(self) -> bool:
        """Whether it answers anything at all: its process may stop while the kernel still takes connections for it."""
        try:
            await ask(self.pool, self.prefix, "/v1/models", seconds=self._limits.connect_seconds)
        except OSError:
            return False
        return True

    def question(self, now: float) -> None:
        """A request has heard nothing for long: finds out whether the replica hangs. Costs nothing when just done."""
        if now - self._asked_at >= _ASK_AGAIN_SECONDS and self._dead is None and not self.retired:
            self._asked_at = now
            self._question = asyncio.get_running_loop().create_task(self._find_out())

    def doubt(self) -> None:
        """A connection to it failed without a byte: finds out at once whether it lives."""
        if self._dead is None and not self._suspected and not self.retired:
            self.on_suspected()
            self._sentinel.doubt()

    # The sentinel calls these.

    def on_suspected(self) -> None:
        """Its connection closed: no new request until more is known."""
        self._suspected = True
        self._refresh()

    def on_alive(self) -> None:
        """It takes connections."""
        risen = self._dead is not None
        self._dead = None
        self._suspected = False
        self._refresh()
        self._watcher.on_replica_changed(self, important=risen)

    def on_dead(self, detail: str, *, silent: bool) -> None:
        """Requests without a byte go elsewhere now."""
        self._dead = detail
        self._refresh()
        self.pool.close_idle()
        for call in list(self.calls):
            call.on_replica_dead(detail, silent=silent)
        self._watcher.on_replica_changed(self, important=True)

    async def _find_out(self) -> None:
        if not await self.answers():
            self._sentinel.hang("it takes connections and answers nothing")

    def _follow_limit(self) -> None:
        learnt, standing, workers = self._saturation, self.standing, self._workers
        standing.concurrency, standing.trying = learnt.limit * workers, learnt.trying * workers

    def _end_cooldown(self) -> None:
        self._cooldown = None
        self._refresh()
        self._watcher.on_replica_changed(self, important=False)

    def _refresh(self) -> None:
        self.standing.available = (
            self.route.state is ReplicaState.READY
            and self._dead is None
            and not (self._suspected or self.retired)
            and self._cooldown is None
        )
