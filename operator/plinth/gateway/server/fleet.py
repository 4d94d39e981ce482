"""The route table brought to life: models with their queues, replicas with their connections, dispatch.

A request is bound to a replica as late as possible: replicas get as many as they hold at once, the others wait
here in order, so that the replica that frees first takes the one that has waited longest.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Protocol

from plinth.domain.traffic import (
    Availability,
    LoadReport,
    ModelLoad,
    ModelRoute,
    ReplicaRoute,
    ReplicaState,
    RouteTable,
)
from plinth.gateway.options import Limits
from plinth.gateway.protocol.errors import Refusal, queue_full, unavailable, waited_in_vain
from plinth.gateway.routing.choice import Standing, choose
from plinth.gateway.routing.held import HeldLimits, HeldQueue
from plinth.gateway.routing.names import model_not_found, routes_by_name
from plinth.gateway.routing.objectives import ObjectiveCounts
from plinth.gateway.server.metrics import Metrics
from plinth.gateway.server.replica import AtReplica, Replica

log = logging.getLogger(__name__)

_MOST_MODELS_REMEMBERED = 1024


class Dispatchable(AtReplica, Protocol):
    """A request on its way to a replica."""

    number: int
    tried: set[str]

    def assign(self, replica: Replica) -> None:
        """It is this replica's turn."""

    def refuse(self, refusal: Refusal) -> None:
        """No replica will take it."""

    def tokens_so_far(self) -> int:
        """Tokens of its unfinished stream."""


class News(Protocol):
    """Who tells the controller."""

    def report_now(self) -> None:
        """Something important happened."""

    def report_soon(self) -> None:
        """Something happened, the first since the last report."""


class Totals:
    """What only grows while the process lives; kept when a model leaves the table and comes back."""

    def __init__(self) -> None:
        self.arrivals = 0
        self.completed = 0
        self.failed = 0
        self.output_tokens = 0
        self.output_tokens_reported = 0
        self.objectives = ObjectiveCounts()


class Model:
    """One model of the table."""

    def __init__(self, route: ModelRoute, totals: Totals, limits: Limits) -> None:
        self.name = route.model
        self.route = route
        self.totals = totals
        self.replicas: list[Replica] = []
        self.standings: list[Standing] = []
        """Of the same replicas."""
        self.calls: set[Dispatchable] = set()
        """At replicas now."""
        self.queue: HeldQueue[Dispatchable] = HeldQueue(
            HeldLimits(limits.queue_requests, limits.queue_seconds)
        )
        self.peak = 0

    def has_life(self) -> bool:
        """Whether any replica takes requests, now or when it has room."""
        return any(replica.standing.available for replica in self.replicas)

    def touch_peak(self) -> None:
        """Remembers the most requests at once, for the next report."""
        now = len(self.calls) + len(self.queue)
        self.peak = max(self.peak, now)

    def load(self) -> ModelLoad:
        """For the report; starts a new peak."""
        totals = self.totals
        estimate = totals.output_tokens + sum(call.tokens_so_far() for call in self.calls)
        # An estimate may exceed the usage that settles it; the total must never fall.
        totals.output_tokens_reported = max(totals.output_tokens_reported, estimate)
        peak, self.peak = self.peak, len(self.calls) + len(self.queue)
        return ModelLoad(
            in_flight=len(self.calls),
            queued=len(self.queue),
            peak=max(peak, self.peak),
            arrivals_total=totals.arrivals,
            completed_total=totals.completed,
            failed_total=totals.failed,
            output_tokens_total=totals.output_tokens_reported,
            ttft_met_total=totals.objectives.ttft_met,
            ttft_missed_total=totals.objectives.ttft_missed,
            tpot_met_total=totals.objectives.tpot_met,
            tpot_missed_total=totals.objectives.tpot_missed,
        )


class Fleet:
    """All models and replicas; the one place where requests are given out."""

    def __init__(self, *, secret: str, limits: Limits, metrics: Metrics, news: News) -> None:
        self.version = 0
        self.models: dict[str, Model] = {}
        self.by_name: dict[str, Model] = {}
        self._changed = True
        """Something happened since the last report."""
        self._secret = secret
        self._limits = limits
        self._metrics = metrics
        self._news = news
        self._replicas: dict[str, Replica] = {}
        self._retired: set[Replica] = set()
        self._totals: dict[str, Totals] = {}

    def apply(self, table: RouteTable) -> None:
        """Replaces the table; requests at replicas that left it end in peace."""
        before = self.models
        self.models = {}
        slots: dict[str, Replica] = {}
        for route in table.models:
            model = before.get(route.model)
            if model is None:
                model = Model(route, self._totals_of(route.model), self._limits)
            model.route = route
            model.replicas = [self._replica_for(item) for item in route.replicas]
            model.standings = [replica.standing for replica in model.replicas]
            slots.update({item.route.slot: item for item in model.replicas})
            self.models[route.model] = model
        for slot, replica in self._replicas.items():
            if slots.get(slot) is not replica:
                self._retire(replica)
        self._replicas = slots
        self.by_name = {name: self.models[item.model] for name, item in routes_by_name(table).items()}
        self.version = table.version
        self._turn_away(before)
        for model in self.models.values():
            self.dispatch(model)
        self._news.report_now()

    def mark_changed(self) -> None:
        """Something happened that the next report will tell; cheap when told already."""
        if not self._changed:
            self._changed = True
            self._news.report_soon()

    def is_busy(self) -> bool:
        """Whether tokens may be coming, which nothing else tells."""
        return any(model.calls for model in self.models.values())

    def listed_names(self) -> list[str]:
        """The first name of every model, in order."""
        return sorted(model.route.names[0] for model in self.models.values() if model.route.names)

    def submit(self, model: Model, call: Dispatchable) -> None:
        """A new request, or one that comes back without a byte from a replica."""
        first = model.queue.first() if model.queue else None
        if first is None or call.number < first.number:
            standing = choose(model.standings, headroom=self._limits.headroom, avoid=call.tried)
            if standing is not None:
                self._give(model, call, self._replicas[standing.slot])
                return
        self._hold(model, call)

    def withdraw(self, model: Model, call: Dispatchable) -> None:
        """A held request whose client has gone."""
        if model.queue.discard(call):
            self.mark_changed()

    def release(self, model: Model, replica: Replica, call: Dispatchable) -> None:
        """A request has left its replica, whatever the end."""
        replica.standing.in_flight -= 1
        replica.calls.discard(call)
        model.calls.discard(call)
        self.mark_changed()
        if not replica.calls:
            if replica.state() is ReplicaState.DRAINING:
                self._news.report_now()
            self._retired.discard(replica)
        if model.queue:
            self.dispatch(model)

    def dispatch(self, model: Model) -> None:
        """Gives held requests out while a replica has room."""
        while (call := model.queue.first()) is not None:
            standing = choose(model.standings, headroom=self._limits.headroom, avoid=call.tried)
            if standing is None:
                return
            model.queue.discard(call)
            self._give(model, call, self._replicas[standing.slot])

    def expire(self, now: float) -> None:
        """Turns away what has waited too long."""
        for model in self.models.values():
            if not model.queue:
                continue
            for call in model.queue.expired(now):
                model.queue.discard(call)
                self.mark_changed()
                call.refuse(waited_in_vain(model.name, self._limits.queue_seconds, model.route.message))

    def close_idle_connections(self, before: float) -> None:
        """Hygiene: servers close idle connections too, and a request must not meet that."""
        for replica in self._replicas.values():
            replica.pool.close_idle(before)

    def has_idle_connections(self) -> bool:
        """Whether hygiene has work left."""
        return any(replica.pool.has_idle() for replica in self._replicas.values())

    def report(self, gateway: str) -> LoadReport:
        """What the gateway sees now; the next report counts its peak anew."""
        self._changed = False
        replicas = {slot: replica.load() for slot, replica in self._replicas.items()}
        for retired in self._retired:
            slot, load = retired.route.slot, retired.load()
            # It may have left the table and come back meanwhile: what began before is still at it.
            back = replicas.get(slot)
            replicas[slot] = replace(back, in_flight=back.in_flight + load.in_flight) if back else load
        return LoadReport(
            gateway=gateway,
            table_version=self.version,
            models={name: model.load() for name, model in self.models.items()},
            replicas=replicas,
        )

    def replicas(self) -> list[Replica]:
        """Those of the table."""
        return list(self._replicas.values())

    def close(self) -> None:
        """Stops watching."""
        for replica in self._replicas.values():
            replica.retire()

    def on_replica_changed(self, replica: Replica, *, important: bool) -> None:
        """A replica rose, fell, or may get requests again."""
        self.mark_changed()
        model = next((item for item in self.models.values() if replica in item.replicas), None)
        if important:
            load = replica.load()
            log.warning("replica %s: %s %s", replica.route.slot, load.state, load.detail)
            if load.state is ReplicaState.DEAD and model is not None:
                self._metrics.deaths.add((model.name,))
            self._news.report_now()
        if model is not None:
            self.dispatch(model)

    def _give(self, model: Model, call: Dispatchable, replica: Replica) -> None:
        replica.standing.in_flight += 1
        replica.calls.add(call)
        model.calls.add(call)
        model.touch_peak()
        self.mark_changed()
        call.assign(replica)

    def _hold(self, model: Model, call: Dispatchable) -> None:
        route = model.route
        if route.availability is Availability.REFUSED and not model.has_life():
            call.refuse(unavailable(model.name, route.message))
        elif model.queue.is_full() and not call.tried:
            call.refuse(queue_full(model.name, self._limits.queue_requests))
        else:
            first = not model.queue
            model.queue.push(call, time.monotonic())
            model.touch_peak()
            self.mark_changed()
            if first:
                self._news.report_now()

    def _turn_away(self, before: dict[str, Model]) -> None:
        for name, model in before.items():
            if self.models.get(name) is not model:
                for call in model.queue.everything():
                    model.queue.discard(call)
                    call.refuse(model_not_found(name, self.listed_names()))
            elif model.route.availability is Availability.REFUSED and not model.has_life():
                for call in model.queue.everything():
                    model.queue.discard(call)
                    call.refuse(unavailable(name, model.route.message))

    def _replica_for(self, route: ReplicaRoute) -> Replica:
        replica = self._replicas.get(route.slot)
        if replica is not None and replica.is_same_place(route):
            replica.update(route)
            return replica
        replica = Replica(route, secret=self._secret, limits=self._limits, watcher=self)
        replica.start()
        return replica

    def _retire(self, replica: Replica) -> None:
        replica.retire()
        if replica.calls:
            self._retired.add(replica)

    def _totals_of(self, model: str) -> Totals:
        if len(self._totals) >= _MOST_MODELS_REMEMBERED and model not in self._totals:
            forgotten = next((name for name in self._totals if name not in self.models), None)
            if forgotten is not None:
                del self._totals[forgotten]
        return self._totals.setdefault(model, Totals())
