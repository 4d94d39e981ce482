"""The route table brought to life: models with their queues, replicas with their connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol

from plinth.domain.traffic import LoadReport, ModelRoute, ReplicaRoute, ReplicaState, RouteTable
from plinth.gateway.routing.names import model_not_found
from plinth.gateway.server.metrics import Metrics
from plinth.gateway.server.model import Bell, Model, Totals
from plinth.gateway.server.peers import Peers
from plinth.gateway.server.replica import Replica, ReplicaSetup, ReplicaWatcher
from plinth.gateway.surface.names import NameIndex

log = logging.getLogger(__name__)

_MOST_MODELS_REMEMBERED: Final = 1024
HEAR_SECONDS: Final = 0.01
"""Between two looks at what the other workers sent where: a prompt takes longer to be read."""


TELL_SECONDS: Final = 0.005
"""For which what this worker has sent is gathered before the others are told."""


class News(Protocol):
    """Who tells the controller."""

    def report_now(self) -> None:
        """Something important happened."""

    def report_soon(self) -> None:
        """Something happened, the first since the last report."""


class Fleet(Bell, ReplicaWatcher):
    """All models and replicas."""

    def __init__(
        self, *, setup: ReplicaSetup, metrics: Metrics, news: News, peers: Peers | None = None
    ) -> None:
        self.version = 0
        self.models: dict[str, Model] = {}
        self.names = NameIndex()
        self._changed = True
        """Something happened since the last report."""
        self._setup = setup
        self._metrics = metrics
        self._news = news
        self._peers = peers
        self._replicas: dict[str, Replica] = {}
        self._retired: set[Replica] = set()
        self._totals: dict[str, Totals] = {}
        self._by_seat: dict[int, tuple[Model, Replica]] = {}
        """Where the other workers' news lead to."""
        self._news_of_caches = peers.news if peers is not None else None
        self._hear_at = 0.0
        self._telling: asyncio.TimerHandle | None = None
        if peers is not None:
            asyncio.get_running_loop().add_reader(peers.wakes.mine, self._on_woken)

    def apply(self, table: RouteTable) -> None:
        """Replaces the table; requests at replicas that left it end in peace."""
        before = self.models
        self.models = {}
        slots: dict[str, Replica] = {}
        for route in table.models:
            model = before.get(route.model) or self._make_model(route)
            model.apply(route, [self._replica_for(model, item) for item in route.replicas])
            slots.update({item.route.slot: item for item in model.replicas})
            self.models[route.model] = model
        for slot, replica in self._replicas.items():
            if slots.get(slot) is not replica:
                self._retire(replica)
        self._replicas = slots
        self._by_seat = {
            seat: (model, replica)
            for model in self.models.values()
            for replica in model.replicas
            if (seat := self._setup.shares.seat_of(replica.route)) is not None
        }
        self.names = NameIndex(table.models)
        self.version = table.version
        self._turn_away(before)
        for model in self.models.values():
            model.dispatch()
        self._news.report_now()

    def find(self, name: str, tenant: str) -> Model | None:
        """The model that a caller of this tenant means."""
        target = self.names.find(name, tenant)
        return self.models[target.route.model] if target is not None else None

    def mark_changed(self) -> None:
        """Something happened that the next report will tell; cheap when told already."""
        if not self._changed:
            self._changed = True
            self._news.report_soon()

    def report_now(self) -> None:
        """The controller should know at once."""
        self._news.report_now()

    def is_busy(self) -> bool:
        """Whether tokens may be coming, which nothing else tells."""
        return any(model.calls for model in self.models.values())

    def expire(self, now: float) -> None:
        """Turns away what has waited too long."""
        for model in self.models.values():
            model.expire(now)

    def review(self, now: float) -> None:
        """Takes out replicas that are out of line with their peers, and lets them back."""
        for model in self.models.values():
            for ejection in model.router.review(model.standings, now):
                what = "gets no requests" if ejection.is_out else "gets requests again"
                log.warning("replica %s %s: %s", ejection.slot, what, ejection.reason)
                if ejection.is_out:
                    self._metrics.ejections.add((model.name,))
                else:
                    model.dispatch()

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
            if important and replica.state() is not ReplicaState.DEAD:
                model.forget(replica)
            model.dispatch()

    def on_replica_empty(self, replica: Replica) -> None:
        """The last request at a replica has ended."""
        if replica.state() is ReplicaState.DRAINING:
            self._news.report_now()
        self._retired.discard(replica)

    def tell_of_cache(self, replica: Replica, blocks: Sequence[int], now: float) -> None:
        """A prompt of these blocks was sent there: the other workers should believe so too."""
        news, share = self._news_of_caches, replica.share
        if news is not None and share is not None and share.seat is not None:
            news.tell(share.seat, blocks, now)
            if self._telling is None:
                self._telling = asyncio.get_running_loop().call_later(TELL_SECONDS, self._tell)

    def hear_of_caches(self, now: float) -> None:
        """What the other workers have sent where; read some times a second."""
        if self._news_of_caches is None or now < self._hear_at:
            return
        self._hear_at = now + HEAR_SECONDS
        for seat, blocks in self._news_of_caches.hear():
            if (found := self._by_seat.get(seat)) is not None:
                found[0].router.heard(found[1].standing, blocks)

    def _tell(self) -> None:
        self._telling = None
        if self._news_of_caches is not None:
            self._news_of_caches.publish()

    def _on_woken(self) -> None:
        assert self._peers is not None  # noqa: S101 - only others wake this worker
        self._peers.wakes.take()
        for model in self.models.values():
            model.look_again()

    def _listed_beside(self, name: str) -> list[str]:
        """The first name of every model of the same namespace: others are not for those who may ask for this one."""
        namespace = name.partition("/")[0]
        routes = [model.route for model in self.models.values()]
        return sorted(
            route.names[0] for route in routes if route.names and route.model.partition("/")[0] == namespace
        )

    def _turn_away(self, before: dict[str, Model]) -> None:
        for name, model in before.items():
            if self.models.get(name) is not model:
                model.leave_table(model_not_found(name, self._listed_beside(name)))
            elif (refusal := model.refusal()) is not None:
                model.turn_away(refusal)

    def _make_model(self, route: ModelRoute) -> Model:
        return Model(
            route,
            self._totals_of(route.model),
            self._setup.limits,
            bell=self,
            share=self._setup.shares.model(route.model),
            wake=self._peers.wakes.wake if self._peers is not None else None,
        )

    def _replica_for(self, model: Model, route: ReplicaRoute) -> Replica:
        replica = model.replica(route.slot)
        if replica is not None and replica.is_same_place(route):
            replica.update(route)
            return replica
        replica = Replica(route, self._setup, self)
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
