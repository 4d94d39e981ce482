"""A fleet as it will be once everything under way is done: plans carried out one after the other, on values alone.

snapshot -> compute_plan -> carried out -> snapshot -> ... until a plan changes nothing

For questions of the kind "what if": every start succeeds, every request ends, and no time passes, so that the load and
all that is counted in seconds stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from plinth.domain.allotment import PlaceMemory
from plinth.domain.fleet import (
    FleetPlan,
    FleetSnapshot,
    Model,
    ModelKey,
    Node,
    NodeState,
    Slot,
    SlotAction,
    SlotName,
    SlotPhase,
    SlotPlan,
)
from plinth.domain.planner import compute_plan
from plinth.domain.targets import TargetMemory

MOST_ROUNDS = 64
"""Plans one after the other. A replica that others make room for takes three: they drain, it starts, all is told."""
_COMING = frozenset({SlotAction.CREATE, SlotAction.AWAIT})
_STARTING = frozenset({SlotPhase.PENDING, SlotPhase.DOWNLOADING, SlotPhase.LOADING, SlotPhase.PROBING})


@dataclass(frozen=True, kw_only=True)
class Settled:
    """The end of the way, and the way."""

    snapshot: FleetSnapshot
    plan: FleetPlan
    """The one that changes nothing; after `MOST_ROUNDS` the last one, whatever it would change."""
    turns: tuple[SlotPlan, ...]
    """Replicas that came or went, in that order; each once for its coming and once for its going."""
    at_rest: bool
    """Whether the last plan changes nothing."""


def settle(snapshot: FleetSnapshot, now: float, *, targets: TargetMemory | None = None) -> Settled:
    """Carry out plan after plan. `targets`, of other plans for much the same fleet, only saves work."""
    targets, places = targets or TargetMemory(), PlaceMemory()
    turns: dict[tuple[SlotName, bool], SlotPlan] = {}
    for _ in range(MOST_ROUNDS):
        plan = compute_plan(snapshot, now, targets=targets, places=places)
        for turn in _turns(plan, snapshot):
            turns.setdefault((turn.name, turn.action in _COMING), turn)
        following = carry_out(plan, snapshot, now)
        if (following.slots, following.nodes) == (snapshot.slots, snapshot.nodes):
            return Settled(snapshot=snapshot, plan=plan, turns=tuple(turns.values()), at_rest=True)
        snapshot = following
    return Settled(snapshot=snapshot, plan=plan, turns=tuple(turns.values()), at_rest=False)


def carry_out(plan: FleetPlan, snapshot: FleetSnapshot, now: float) -> FleetSnapshot:
    """The fleet right after the plan, as if nothing took time."""
    known = {slot.name: slot for slot in snapshot.slots}
    slots = tuple(
        _started(each, now) if each.action in _COMING else _kept(known[each.name], now)
        for each in _fates(plan)
        if each.action in _COMING or each.action is SlotAction.KEEP
    )
    held = {node_id for slot in slots for node_id in slot.nodes}
    ready: dict[ModelKey, set[str]] = {}
    for slot in slots:
        if slot.phase is SlotPhase.READY:
            ready.setdefault(slot.name.model, set()).add(slot.name.revision)
    return replace(
        snapshot,
        slots=slots,
        nodes=tuple(_used(node, held) for node in snapshot.nodes if not _is_gone(node, held)),
        models=tuple(_answered(model, ready.get(model.key, set())) for model in snapshot.models),
    )


def _fates(plan: FleetPlan) -> Iterator[SlotPlan]:
    for model in plan.models:
        yield from model.slots
    yield from plan.leaving


def _turns(plan: FleetPlan, snapshot: FleetSnapshot) -> Iterator[SlotPlan]:
    """What comes or goes by the plan."""
    yield from (each for each in _fates(plan) if each.action is not SlotAction.KEEP)
    orphans = set(plan.orphans)
    for slot in snapshot.slots:
        if slot.name in orphans:
            yield SlotPlan.of(slot, SlotAction.REMOVE, "its model was deleted")


def _started(plan: SlotPlan, now: float) -> Slot:
    return Slot(
        name=plan.name,
        spec=plan.spec,
        needs=plan.needs,
        place=plan.place,
        ray=plan.ray,
        running_on=plan.node_id,
        phase=SlotPhase.READY,
        # Any address: what has one may have been asked something, and so drains before it goes.
        host="",
        port=0,
        since=now,
        ready_since=now,
        replaces=plan.replaces,
    )


def _kept(slot: Slot, now: float) -> Slot:
    if slot.phase not in _STARTING:
        return slot if slot.draining_since is None else replace(slot, draining_since=None)
    return replace(slot, phase=SlotPhase.READY, running_on=slot.node_id, ready_since=now, draining_since=None)


def _used(node: Node, held: set[str]) -> Node:
    """A worker that something has a place on was brought up."""
    return (
        replace(node, state=NodeState.PRESENT)
        if node.state is NodeState.POTENTIAL and node.node_id in held
        else node
    )


def _is_gone(node: Node, held: set[str]) -> bool:
    """A node that is being emptied goes with its last replica."""
    return node.state is NodeState.RETIRING and node.node_id not in held


def _answered(model: Model, revisions: set[str]) -> Model:
    """A start that came after failed ones ends the waiting for the next."""
    failed = model.failure is not None and model.failure.revision in revisions
    return replace(model, failure=None) if failed else model
