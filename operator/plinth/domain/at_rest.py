"""Models at rest: all their replicas serve, stay and are as wanted, so what was decided of them stands.

Neither time nor other models decide anything about such a model: its intent and its outcome follow from itself, from
the pools and from whether all is known. While these are as they were, both are taken from the pass before. Most models
of a fleet are at rest on most passes. It makes no difference to a plan and only saves work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from plinth.api.v1alpha1 import GPUPool, ModelDeployment
from plinth.domain.fleet import (
    FleetSnapshot,
    LoadWindow,
    Model,
    ModelKey,
    ModelPlan,
    Node,
    Ray,
    Slot,
    SlotAction,
    SlotName,
    SlotPhase,
)
from plinth.domain.intents import Intent, Surroundings
from plinth.domain.naming import NameMemory, ServedNames
from plinth.domain.relations import ALONE, RelationMemory, Relations
from plinth.domain.scaling import ScalingRequest, desired_replicas, least_suffices_to
from plinth.domain.traffic import LoadReport, ModelRoute, ReplicaState


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was decided about one model."""

    plan: ModelPlan
    route: ModelRoute
    wakes: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Decided:
    """A model at rest: all that it was planned from, and what came out."""

    intent: Intent
    names: ServedNames
    relations: Relations
    scaling: ScalingRequest
    outcome: Outcome
    goals_met: tuple[int, int, int, int]
    """The window's counts of requests."""
    text: str
    """The model's key, as reports name it."""
    least_suffices_to: int
    """The load up to which it needs no more than it always has; -1 where it has more."""

    def still_holds(
        self, model: Model, names: ServedNames, relations: Relations, slots: tuple[Slot, ...]
    ) -> bool:
        """Whether the model is as it was, its load aside."""
        before, window = self.intent.model, model.window
        return (
            (model.resource is before.resource or _asks_the_same(model.resource, before.resource))
            and model.artifact is before.artifact
            and slots == self.intent.slots
            and (names is self.names or names == self.names)
            and (relations is self.relations or relations == self.relations)
            and model.failure is None
            and model.first_seen == before.first_seen
            and model.answered_revision == before.answered_revision
            and model.invalid_edit == before.invalid_edit
            and (model.correction is before.correction or model.correction == before.correction)
            and model.stretches == before.stretches
            and (window.ttft_met, window.ttft_missed, window.tpot_met, window.tpot_missed) == self.goals_met
        )

    def wants_as_many(self, window: LoadWindow, report: LoadReport | None, now: float) -> bool:
        """Whether the load asks for what it asked for, for the same reason and as long."""
        load = report.models.get(self.text) if report else None
        if (load.in_flight + load.queued if load else 0) <= self.least_suffices_to:
            return True
        asked = replace(self.scaling, window=window, load=load)
        return desired_replicas(asked, now) == self.intent.wanted


class Rest:
    """The models at rest, kept from pass to pass, and everybody's names and relations."""

    def __init__(self) -> None:
        self.names = NameMemory()
        self.relations = RelationMemory()
        self._decided: dict[ModelKey, Decided] = {}
        self._before: _Around | None = None
        self._disturbed: frozenset[ModelKey] = frozenset()

    def look_around(self, snapshot: FleetSnapshot) -> None:
        """Forget all where something changed that any model may depend on."""
        around = _Around(snapshot.report is not None, snapshot.rays, snapshot.pools, snapshot.nodes)
        if self._before is None or not _is_like(self._before, around):
            self._decided = {}
        self._before = around
        self._disturbed = frozenset(_disturbed(snapshot.report))

    def intent(
        self, model: Model, names: ServedNames, relations: Relations, shared: Surroundings
    ) -> Intent | None:
        """What is wanted of the model, if it is at rest."""
        found, key = self._decided.get(model.key), model.key
        if found is None:
            return None
        stands = (
            key not in self._disturbed
            and found.still_holds(model, names, relations, shared.slots.get(key, ()))
            and found.wants_as_many(model.window, shared.snapshot.report, shared.now)
        )
        if not stands:
            del self._decided[key]
            return None
        return found.intent

    def outcome(self, intent: Intent) -> Outcome | None:
        """What was decided about a model at rest, as long as nobody else needs its replicas to go."""
        found = self._decided.get(intent.model.key)
        return None if found is None else found.outcome

    def disturb(self, models: Iterable[ModelKey]) -> None:
        """Others need replicas of these to go."""
        for key in models:
            self._decided.pop(key, None)

    def keep(
        self,
        names: Mapping[ModelKey, ServedNames],
        relations: Mapping[ModelKey, Relations],
        pairs: Iterable[tuple[Intent, Outcome]],
    ) -> None:
        """All that was decided in a pass; of models that are not at rest, nothing is kept."""
        known = self._decided
        self._decided = {}
        for intent, outcome in pairs:
            key = intent.model.key
            decided = known.get(key) or _decided(intent, names[key], relations.get(key, ALONE), outcome)
            if decided is not None:
                self._decided[key] = decided


def _decided(intent: Intent, names: ServedNames, relations: Relations, outcome: Outcome) -> Decided | None:
    """The model at rest; None where it is not."""
    claim, scaling, replicas = intent.claim, intent.scaling, intent.wanted.replicas
    if claim is None or scaling is None or intent.refusal is not None or intent.model.failure is not None:
        return None
    if claim.request.target.waits_for_room:
        return None
    plans = outcome.plan.slots
    rests = (
        len(claim.request.sides.kept_new) == len(intent.slots) == len(plans) == replicas
        and all(plan.action is SlotAction.KEEP for plan in plans)
        and all(slot.phase is SlotPhase.READY and slot.draining_since is None for slot in intent.slots)
    )
    if not rests:
        return None
    window = intent.model.window
    return Decided(
        intent=intent,
        names=names,
        relations=relations,
        scaling=scaling,
        outcome=outcome,
        goals_met=(window.ttft_met, window.ttft_missed, window.tpot_met, window.tpot_missed),
        text=str(intent.model.key),
        least_suffices_to=least_suffices_to(scaling, intent.wanted),
    )


def _disturbed(report: LoadReport | None) -> Iterator[ModelKey]:
    """Models of whose replicas the gateway says anything but that they serve."""
    serves = ReplicaState.READY
    for replica, load in report.replicas.items() if report else ():
        if load.state is not serves:
            name = SlotName.parse(replica)
            if name is not None:
                yield name.model


def _asks_the_same(a: ModelDeployment, b: ModelDeployment) -> bool:
    """Of its status only the count of replicas is ever read back."""
    return a.spec is b.spec and a.status.desired_replicas == b.status.desired_replicas


@dataclass(frozen=True)
class _Around:
    """What all models of a pass depend on."""

    reported: bool
    rays: tuple[Ray, ...]
    pools: tuple[GPUPool, ...]
    nodes: tuple[Node, ...]


def _is_like(before: _Around, now: _Around) -> bool:
    """Whether pools, nodes and Rays are as they were. Since when a node holds nothing decides about workers only."""
    return (
        before.reported == now.reported
        and before.rays == now.rays
        and len(before.pools) == len(now.pools)
        and len(before.nodes) == len(now.nodes)
        and all(map(_is_same_pool, before.pools, now.pools))
        and all(a is b or _is_same_node(a, b) for a, b in zip(before.nodes, now.nodes, strict=True))
    )


def _is_same_pool(a: GPUPool, b: GPUPool) -> bool:
    """Its status aside, which says what became of it."""
    one, other = a.metadata, b.metadata
    return a is b or (
        (one.name, one.deletion_timestamp) == (other.name, other.deletion_timestamp) and a.spec == b.spec
    )


def _is_same_node(a: Node, b: Node) -> bool:
    return replace(a, idle_since=None) == replace(b, idle_since=None)
