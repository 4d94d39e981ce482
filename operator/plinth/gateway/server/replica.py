"""One replica: how it stands, the connections to it, the requests at it."""

from __future__ import annotations

import asyncio
from typing import Protocol

from plinth.domain.traffic import ReplicaLoad, ReplicaRoute, ReplicaState
from plinth.gateway.options import Limits
from plinth.gateway.protocol.forward import upstream_prefix
from plinth.gateway.routing.choice import Standing
from plinth.gateway.server.sentinel import Sentinel, SentinelTimes
from plinth.gateway.server.upstream import ConnectionPool


class AtReplica(Protocol):
    """A request as its replica knows it."""

    def on_replica_dead(self, detail: str, *, silent: bool) -> None:
        """The replica is dead: go elsewhere if no byte came yet."""


class ReplicaWatcher(Protocol):
    """What hears that a replica's readiness or life changed."""

    def on_replica_changed(self, replica: Replica, *, important: bool) -> None:
        """Requests may be given out anew; `important` changes are reported at once."""


class Replica:
    """A slot of the table as this gateway sees it."""

    def __init__(self, route: ReplicaRoute, *, secret: str, limits: Limits, watcher: ReplicaWatcher) -> None:
        self.route = route
        self.standing = Standing(slot=route.slot, concurrency=route.concurrency)
        self.calls: set[AtReplica] = set()
        self.pool = ConnectionPool(route.host, route.port, most_idle=max(1, route.concurrency))
        self.prefix = upstream_prefix(path=route.path, host=route.host, port=route.port, secret=secret)
        self.retired = False
        """No longer in the table; lives on until its requests have ended."""
        self._limits = limits
        self._watcher = watcher
        self._dead: str | None = None
        self._suspected = False
        self._cooldown: asyncio.TimerHandle | None = None
        times = SentinelTimes(connect=limits.connect_seconds, check=limits.check_seconds)
        self._sentinel = Sentinel(self.pool, self, times)
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
        self.route = route
        self.standing.concurrency = route.concurrency
        self._refresh()

    def retire(self) -> None:
        """It has left the table: no new request, no watching; requests at it end in peace."""
        self.retired = True
        self._sentinel.stop()
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

    def cool_down(self) -> None:
        """It answered 503: gives it no request for a moment."""
        if self._cooldown is None:
            loop = asyncio.get_running_loop()
            self._cooldown = loop.call_later(self._limits.cooldown_seconds, self._end_cooldown)
            self._refresh()

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
