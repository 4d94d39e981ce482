"""What is worth telling of a plan that follows another: the sentences that `kubectl describe` shows as events.

Told are turns, not states: a condition that flips, a replica that comes or goes, another shape, workers asked for and let
go. After a restart there is no plan before, and nothing is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from plinth.api.v1alpha1 import ConditionType, Reason, ResourceKey
from plinth.domain.fleet import FleetPlan, ModelPlan, PoolPlan, SlotAction, SlotPlan, Verdict
from plinth.domain.quantities import list_some

CALM = frozenset(
    {
        Reason.DELETING,
        Reason.DOWNLOADING,
        Reason.NO_NODES,
        Reason.NOT_EVALUATED,
        Reason.READING_MODEL,
        Reason.REPLACING_WORKERS,
        Reason.ROLLING_OUT,
        Reason.SCALED_TO_ZERO,
        Reason.SCALING,
        Reason.STARTING,
        Reason.WORKERS_STARTING,
    }
)
"""Why a condition may be False in the normal course of things."""

TURNS = {
    SlotAction.CREATE: ("ReplicaCreated", "Create"),
    SlotAction.AWAIT: ("ReplicaAwaitsWorker", "Create"),
    SlotAction.DRAIN: ("ReplicaDraining", "Drain"),
    SlotAction.REMOVE: ("ReplicaRemoved", "Remove"),
}
"""A replica's new fate as an event's reason and action."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """One event in the making."""

    about: ResourceKey
    reason: str
    action: str
    """What Plinth did."""
    message: str
    is_warning: bool = False


def notes_between(before: FleetPlan | None, after: FleetPlan) -> list[Note]:
    """What happened from one plan to the next; nothing without one before."""
    if before is None:
        return []
    models = {plan.key: plan for plan in before.models}
    pools = {plan.name: plan for plan in before.pools}
    notes = [note for plan in after.models for note in _of_model(models.get(plan.key), plan)]
    notes += [note for plan in after.pools for note in _of_pool(pools.get(plan.name), plan)]
    return notes


def _of_model(before: ModelPlan | None, after: ModelPlan) -> Iterator[Note]:
    if before == after:
        return
    about = ResourceKey("ModelDeployment", after.key.namespace, after.key.name)
    yield from _flips(about, before.verdicts if before else (), after.verdicts)
    if before is not None and _shape(before) and _shape(after) and _shape(before) != _shape(after):
        yield from _chosen_anew(about, after.verdicts)
    known = {slot.name: slot.action for slot in before.slots} if before else {}
    for slot in after.slots:
        if slot.action in TURNS and known.get(slot.name) is not slot.action:
            yield _turn(about, slot)


def _turn(about: ResourceKey, slot: SlotPlan) -> Note:
    reason, action = TURNS[slot.action]
    return Note(about=about, reason=reason, action=action, message=f"{slot.name}: {slot.reason}")


def _flips(about: ResourceKey, before: Iterable[Verdict], after: Iterable[Verdict]) -> Iterator[Note]:
    """Conditions that became true or false, or are false for another reason; each reason once."""
    known = {verdict.type: (verdict.status, verdict.reason) for verdict in before}
    told: set[str] = set()
    for verdict in after:
        status, reason = known.get(verdict.type, (None, ""))
        same = verdict.status == status and (status is not False or verdict.reason == reason)
        if verdict.status is None or same or verdict.reason in told:
            continue
        told.add(verdict.reason)
        yield Note(
            about=about,
            reason=verdict.reason,
            action="Judge",
            message=f"{verdict.type} is {verdict.status}: {verdict.message}",
            is_warning=verdict.status is False and verdict.reason not in CALM,
        )


def _shape(plan: ModelPlan) -> tuple[object, ...]:
    spec = plan.spec
    return (plan.pool, spec.engine, spec.shape) if spec else ()


def _chosen_anew(about: ResourceKey, verdicts: Iterable[Verdict]) -> Iterator[Note]:
    for verdict in verdicts:
        if verdict.type == ConditionType.PLANNED and verdict.status:
            yield Note(about=about, reason=verdict.reason, action="Plan", message=verdict.message)


def _of_pool(before: PoolPlan | None, after: PoolPlan) -> Iterator[Note]:
    if before == after:
        return
    about = ResourceKey("GPUPool", "", after.name)
    yield from _flips(about, before.verdicts if before else (), after.verdicts)
    known = {(group.ray, group.group): group for group in before.workers} if before else {}
    for group in after.workers:
        old = known.get((group.ray, group.group))
        had, going = (old.workers, old.remove) if old else (0, ())
        where = f"{group.group} of {group.ray}"
        if group.workers > had:
            message = f"{where}: {group.workers} workers are asked for instead of {had}"
            yield Note(about=about, reason="WorkersAsked", action="Scale", message=message)
        if leaving := [pod for pod in group.remove if pod not in going]:
            message = f"{where}: {list_some(leaving)} may go, nothing needs them"
            yield Note(about=about, reason="WorkersReleased", action="Scale", message=message)
    if retired := [ray for ray in after.retired if before is None or ray not in before.retired]:
        message = f"{list_some(retired)} holds nothing any more and goes"
        yield Note(about=about, reason="RayClusterRetired", action="Delete", message=message)
