"""What is wanted of each model before places are given: its target, how many replicas, which are missing.

snapshot -> Surroundings -> intend, model by model -> Intent, with its claim on places
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter

from plinth.domain.allotment import Claim
from plinth.domain.draining import Departure
from plinth.domain.fleet import FleetSnapshot, Model, ModelKey, Slot, SlotName, SlotPhase
from plinth.domain.health import breakage, retry_due_at
from plinth.domain.moving import Home, evacuated_node, homes_of, misplaced, moving
from plinth.domain.naming import ServedNames
from plinth.domain.pool_choice import choose_target
from plinth.domain.pools import Pool, resolve_pools
from plinth.domain.scaling import ScalingDecision, ScalingRequest, desired_replicas
from plinth.domain.sides import RolloutRequest
from plinth.domain.targets import Refusal, Target, TargetMemory, running_target
from plinth.domain.vacancies import Vacancies


@dataclass(frozen=True, kw_only=True)
class Intent:
    """What is wanted of one model, before places are given."""

    model: Model
    slots: tuple[Slot, ...]
    target: Target | None
    refusal: Refusal | None
    broken: Mapping[SlotName, str]
    departure: Departure
    wanted: ScalingDecision
    scaling: ScalingRequest | None
    """What `wanted` was decided by; None without a target."""
    claim: Claim | None
    """None where nothing can be decided anew: without a target, or while a Ray is away."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What every model of one pass shares."""

    snapshot: FleetSnapshot
    pools: tuple[Pool, ...]
    slots: dict[ModelKey, tuple[Slot, ...]]
    node_ids: frozenset[str]
    homes: Mapping[str, Home]
    accelerators: Mapping[str, str]
    """Kind of the accelerators of each node."""
    evacuated: frozenset[str]
    """Nodes that may be emptied before there is room elsewhere."""
    targets: TargetMemory
    vacancies: Vacancies
    """What is left of the pools, as one model after the other chooses."""
    now: float

    def is_known(self, pool: str, slots: tuple[Slot, ...]) -> bool:
        """Whether all Rays answer that a model has to do with: its pool's, and those that its replicas run on.

        A Ray that is being replaced need not: what it runs stays until something else serves.
        """
        homes = {slot.ray for slot in slots}
        return not any(
            (ray.pool in {"", pool} or ray.name in homes) and not ray.answers and not ray.retiring
            for ray in self.snapshot.rays
        )


def look_around(snapshot: FleetSnapshot, now: float, targets: TargetMemory) -> Surroundings:
    """What every model of one pass shares."""
    pools = resolve_pools(snapshot.pools, snapshot.nodes)
    return Surroundings(
        snapshot=snapshot,
        pools=pools,
        slots=_by_model(snapshot.slots),
        node_ids=frozenset(node.node_id for node in snapshot.nodes),
        homes=homes_of(pools),
        accelerators={node.node_id: node.accelerator for node in snapshot.nodes},
        evacuated=frozenset().union(*(evacuated_node(pool, snapshot.slots) for pool in pools)),
        targets=targets,
        vacancies=Vacancies(snapshot.slots),
        now=now,
    )


def intend(model: Model, names: ServedNames, shared: Surroundings) -> Intent:
    """One model from its spec to the replicas that are missing."""
    slots = shared.slots.get(model.key, ())
    chosen = choose_target(
        model,
        names=names,
        pools=shared.pools,
        slots=slots,
        memory=shared.targets,
        vacancies=shared.vacancies,
    )
    refusal = chosen if isinstance(chosen, Refusal) else None
    target = chosen if isinstance(chosen, Target) else running_target(slots, shared.pools)
    broken = _broken(slots, shared)
    departure = Departure(
        report=shared.snapshot.report,
        drain_timeout_seconds=model.resource.spec.rollout.drain_timeout_seconds,
        now=shared.now,
    )
    claim: Claim | None = None
    scaling: ScalingRequest | None = None
    if target is None:
        wanted = ScalingDecision(replicas=0, reason=refusal.message if refusal else "nothing runs")
    else:
        scaling = _scaling(model, target, slots, broken=broken, shared=shared, revision_known=refusal is None)
        wanted = desired_replicas(scaling, shared.now)
        if shared.is_known(target.pool.name, slots):
            claim = _claim(
                model, target, slots, broken=broken, wanted=wanted, departure=departure, shared=shared
            )
            shared.vacancies.take(target.pool, target.needs, len(claim.request.missing))
    return Intent(
        model=model,
        slots=slots,
        target=target,
        refusal=refusal,
        broken=broken,
        departure=departure,
        wanted=wanted,
        scaling=scaling,
        claim=claim,
    )


def _by_model(slots: Iterable[Slot]) -> dict[ModelKey, tuple[Slot, ...]]:
    grouped: dict[ModelKey, list[Slot]] = {}
    for slot in slots:
        grouped.setdefault(slot.name.model, []).append(slot)
    for found in grouped.values():
        if len(found) > 1:
            found.sort(key=attrgetter("name"))
    return {key: tuple(found) for key, found in grouped.items()}


def _broken(slots: tuple[Slot, ...], shared: Surroundings) -> dict[SlotName, str]:
    report = shared.snapshot.report
    reasons = ((slot, breakage(slot, report=report, node_ids=shared.node_ids)) for slot in slots)
    return {slot.name: reason for slot, reason in reasons if reason is not None}


def _scaling(
    model: Model,
    target: Target,
    slots: tuple[Slot, ...],
    *,
    broken: dict[SlotName, str],
    shared: Surroundings,
    revision_known: bool,
) -> ScalingRequest:
    """What tells how many are wanted. What runs without a known spec could not be started again: one at least stays."""
    report = shared.snapshot.report
    ready = [slot for slot in slots if slot.phase is SlotPhase.READY and slot.name not in broken]
    since = [slot.ready_since if slot.ready_since is not None else slot.since for slot in ready]
    return ScalingRequest(
        scaling=model.resource.spec.scaling,
        concurrency=target.users,
        window=model.window,
        load=report.models.get(str(model.key)) if report else None,
        current=_current(model, target, slots),
        answered=revision_known and _has_answered(model, target, slots),
        newest_ready_at=max(since, default=None),
    )


def _current(model: Model, target: Target, slots: tuple[Slot, ...]) -> int:
    """Replicas wanted so far: the count of the last status, as an autoscaler reads `spec.replicas`.

    Where nothing exists any more nothing is wanted so far. Where no count was kept, it is told from what is there:
    during a rollout one side stands in for the other, so the larger one counts.
    """
    present = [slot for slot in slots if slot.phase is not SlotPhase.STOPPING]
    if not present:
        return 0
    staying = [slot for slot in present if slot.draining_since is None]
    new = sum(1 for slot in staying if slot.name.revision == target.revision)
    return model.resource.status.desired_replicas or max(new, len(staying) - new)


def _has_answered(model: Model, target: Target, slots: tuple[Slot, ...]) -> bool:
    ready_now = any(slot.phase is SlotPhase.READY and slot.name.revision == target.revision for slot in slots)
    return ready_now or model.answered_revision == target.revision


def _claim(
    model: Model,
    target: Target,
    slots: tuple[Slot, ...],
    *,
    broken: dict[SlotName, str],
    wanted: ScalingDecision,
    departure: Departure,
    shared: Surroundings,
) -> Claim:
    failure, spec = model.failure, model.resource.spec
    request = RolloutRequest(
        model=model.key,
        target=target,
        desired=wanted.replicas,
        slots=slots,
        broken=broken,
        failing=failure is not None and failure.revision == target.revision,
        retry_at=retry_due_at(failure, target.revision),
        departure=departure,
        misplaced=misplaced(slots, target, shared.homes),
        moving=moving(slots, target, broken),
        evacuated=shared.evacuated,
    )
    # A model that sleeps until somebody asks needs its first replica, once somebody does.
    needed = min(wanted.replicas, max(spec.scaling.min_replicas, 1))
    return Claim(request=request, priority=spec.priority, needed=needed, first_seen=model.first_seen)
