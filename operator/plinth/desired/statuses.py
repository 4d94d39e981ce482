"""Last step of a pass, as pure functions: a plan and the status before it become the status to write.

A condition's transition time moves only when its status flips, so an unchanged status is equal to the one before and
is not written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from plinth.api.v1alpha1 import (
    Condition,
    ConditionType,
    GPUPool,
    GPUPoolStatus,
    ModelDeployment,
    ModelDeploymentStatus,
    Progress,
)
from plinth.desired import names
from plinth.desired.figures import measured_figures, predicted_figures
from plinth.desired.replica_places import replica_places
from plinth.domain.corrections import SpeedStretch
from plinth.domain.fleet import (
    FleetPlan,
    FleetSnapshot,
    ModelKey,
    ModelPlan,
    Node,
    PoolPlan,
    Slot,
    SlotAction,
    SlotName,
    SlotPhase,
    SlotPlan,
    Verdict,
)
from plinth.domain.pools import CPU
from plinth.domain.quantities import multiply_money
from plinth.domain.traffic import ModelLoad

MAX_MESSAGE_CHARACTERS = 4096
MAX_PROGRESS = 16
EXISTING = {SlotAction.CREATE, SlotAction.KEEP, SlotAction.DRAIN}
NOT_STARTING = {SlotPhase.READY, SlotPhase.STOPPING, SlotPhase.FAILED}
STATUS_WORDS = {True: "True", False: "False", None: "Unknown"}
HUNDRED_PERCENT = 100


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the status of one model tells of besides the plan."""

    slots: tuple[Slot, ...]
    """The model's own."""
    load: ModelLoad | None
    pool: PoolPlan | None
    cost_per_accelerator_hour: str = "0"
    stretches: tuple[SpeedStretch, ...] = ()
    """What its replicas delivered under steady load."""
    nodes: Mapping[str, Node] = field(default_factory=dict)
    """The fleet's, by id."""


def look(snapshot: FleetSnapshot, plan: FleetPlan) -> dict[ModelKey, Seen]:
    """What every model's status tells of besides the plan."""
    slots: dict[ModelKey, list[Slot]] = {}
    for slot in snapshot.slots:
        slots.setdefault(slot.name.model, []).append(slot)
    prices = {each.metadata.name: each.spec.cost_per_accelerator_hour for each in snapshot.pools}
    pools = {each.name: each for each in plan.pools}
    loads = snapshot.report.models if snapshot.report else {}
    stretches = {model.key: model.stretches for model in snapshot.models}
    nodes = {node.node_id: node for node in snapshot.nodes}

    def of(model: ModelPlan) -> Seen:
        return Seen(
            slots=tuple(slots.get(model.key, ())),
            load=loads.get(str(model.key)),
            pool=pools.get(model.pool),
            cost_per_accelerator_hour=prices.get(model.pool, "0"),
            stretches=stretches.get(model.key, ()),
            nodes=nodes,
        )

    return {model.key: of(model) for model in plan.models}


def model_status(plan: ModelPlan, resource: ModelDeployment, seen: Seen, now: float) -> ModelDeploymentStatus:
    """A model's whole status; `resource` carries the one before it."""
    before = resource.status
    slots, load = seen.slots, seen.load
    existing = [slot for slot in plan.slots if slot.action in EXISTING]
    kept = {slot.name for slot in existing if slot.action is SlotAction.KEEP}
    ready = [slot for slot in slots if slot.name in kept and slot.phase is SlotPhase.READY]
    # Also one that goes again at once has answered: else a model nobody asks for would be tried for ever.
    answered = any(slot.phase is SlotPhase.READY and slot.name.revision == plan.revision for slot in slots)
    return ModelDeploymentStatus(
        observed_generation=resource.metadata.generation,
        revision=plan.revision or before.revision,
        answered_revision=plan.revision if answered else before.answered_revision,
        replicas=len(existing),
        ready_replicas=len(ready),
        desired_replicas=plan.desired_replicas,
        selector=names.replica_selector(plan.key),
        pool=plan.pool,
        engine=_engine(plan),
        shape=_shape(plan),
        accelerators=sum(slot.needs.all_accelerators for slot in existing),
        queued=load.queued if load else 0,
        cost_per_hour=_cost_per_hour(existing, seen),
        reason=_main_reason(plan.verdicts),
        plan=list(plan.reasons),
        predicted=predicted_figures(plan.prediction),
        measured=measured_figures(plan.revision, slots, seen.stretches),
        places=replica_places(existing, {slot.name: slot for slot in slots}, seen.nodes),
        progress=_progress(slots, {slot.name for slot in existing}),
        conditions=date_conditions(plan.verdicts, before.conditions, resource.metadata.generation, now),
    )


def pool_status(plan: PoolPlan, resource: GPUPool, now: float) -> GPUPoolStatus:
    """A pool's whole status; `resource` carries the one before it."""
    generation = resource.metadata.generation
    return GPUPoolStatus(
        observed_generation=generation,
        nodes=plan.nodes,
        accelerator=plan.accelerator,
        accelerators=plan.accelerators,
        accelerators_used=plan.accelerators_used,
        memory_bytes=plan.memory_bytes,
        memory_used_bytes=plan.memory_used_bytes,
        workers_ready=plan.workers_ready,
        workers_wanted=sum(group.workers for group in plan.workers),
        ray_clusters=list(plan.rays),
        plan=list(plan.reasons),
        reason=_main_reason(plan.verdicts),
        conditions=date_conditions(plan.verdicts, resource.status.conditions, generation, now),
    )


def date_conditions(
    verdicts: Iterable[Verdict], before: Iterable[Condition], generation: int, now: float
) -> list[Condition]:
    """The verdicts as conditions, each with the time of its last flip."""
    known = {condition.type: condition for condition in before}
    return [_date(verdict, known.get(verdict.type), generation, now) for verdict in verdicts]


def _date(verdict: Verdict, before: Condition | None, generation: int, now: float) -> Condition:
    status = STATUS_WORDS[verdict.status]
    unchanged = before is not None and before.status == status
    if (
        before is not None
        and unchanged
        and _says(before)
        == (
            verdict.reason,
            verdict.message[:MAX_MESSAGE_CHARACTERS],
            generation,
        )
    ):
        return before
    return Condition.model_validate(
        {
            "type": verdict.type,
            "status": status,
            "reason": verdict.reason,
            "message": verdict.message[:MAX_MESSAGE_CHARACTERS],
            "lastTransitionTime": before.last_transition_time if before and unchanged else format_time(now),
            "observedGeneration": generation,
        }
    )


def _says(condition: Condition) -> tuple[str, str, int]:
    return condition.reason, condition.message, condition.observed_generation


def format_time(at: float) -> str:
    """Unix seconds as RFC 3339 in UTC, to the second as Kubernetes writes it."""
    return datetime.fromtimestamp(at, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _engine(plan: ModelPlan) -> str:
    specs = [plan.spec, *(slot.spec for slot in plan.slots)]
    return next((spec.engine.value for spec in specs if spec), "")


def _shape(plan: ModelPlan) -> str:
    specs = [plan.spec, *(slot.spec for slot in plan.slots)]
    return next((names.shape_name(plan.desired_replicas, spec.shape) for spec in specs if spec), "")


def _cost_per_hour(slots: list[SlotPlan], seen: Seen) -> str:
    """Price times accelerators held; on a CPU pool, times nodes held."""
    price = seen.cost_per_accelerator_hour
    if seen.pool is not None and seen.pool.accelerator == CPU:
        return multiply_money(price, len({slot.node_id for slot in slots}))
    return multiply_money(price, sum(slot.needs.all_accelerators for slot in slots))


def _main_reason(verdicts: tuple[Verdict, ...]) -> str:
    """Ready's reason; where all is ready yet an edit was refused, that."""
    by_type = {verdict.type: verdict for verdict in verdicts}
    ready, accepted = by_type.get(ConditionType.READY), by_type.get(ConditionType.ACCEPTED)
    if ready is not None and ready.status is True and accepted is not None and accepted.status is False:
        return accepted.reason
    return ready.reason if ready else ""


def _progress(slots: Iterable[Slot], existing: set[SlotName]) -> list[Progress]:
    starting = [slot for slot in slots if slot.phase not in NOT_STARTING and slot.name in existing]
    return [
        Progress(
            replica=str(slot.name),
            phase=slot.phase.value,
            bytes_done=slot.bytes_done,
            bytes_total=slot.bytes_total,
            percent=_percent(slot.bytes_done, slot.bytes_total),
            eta_seconds=slot.eta_seconds,
        )
        for slot in sorted(starting, key=lambda each: each.name)[:MAX_PROGRESS]
    ]


def _percent(done: int, total: int) -> int:
    return min(HUNDRED_PERCENT, HUNDRED_PERCENT * done // total) if total > 0 else 0
