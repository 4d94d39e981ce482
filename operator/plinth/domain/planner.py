"""Second step of a pass: one plan for all pools and models, a pure function of the snapshot and `now`.

    pools -> names -> for each model: target (engine, shape) -> replicas wanted -> sides, claim
    -> places for all models at once -> for each model: rollout -> conditions -> routes

A plan does not depend on how the snapshot was put together, nor on the order in which models are looked at.
While Ray is away nothing is created, moved or removed: every slot is kept as it was last seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from plinth.domain.allotment import Allotment, Claim, PlaceMemory, allot
from plinth.domain.conditions import Situation, model_verdicts, pool_verdicts
from plinth.domain.corrections import correct, describe_correction
from plinth.domain.deserted import plan_deserted
from plinth.domain.draining import Departure, leave, timeout_at
from plinth.domain.figures import Prediction
from plinth.domain.fleet import (
    FleetPlan,
    FleetSnapshot,
    Model,
    ModelKey,
    ModelPlan,
    Node,
    PoolPlan,
    Slot,
    SlotAction,
    SlotName,
    SlotPhase,
    SlotPlan,
)
from plinth.domain.health import breakage, retry_due_at
from plinth.domain.moving import Home, evacuated_node, homes_of, misplaced, moving
from plinth.domain.naming import ServedNames, resolve_names
from plinth.domain.placing.room import Room
from plinth.domain.placing.view import host_name, node_id_of
from plinth.domain.pools import Pool, resolve_pools
from plinth.domain.rollout import RolloutDecision, plan_rollout
from plinth.domain.routes import RouteRequest, model_route
from plinth.domain.scaling import ScalingDecision, ScalingRequest, desired_replicas
from plinth.domain.sides import RolloutRequest
from plinth.domain.targets import Refusal, Target, TargetMemory, choose_target, running_target
from plinth.domain.traffic import ModelRoute, RouteTable
from plinth.domain.workers import plan_workers


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was decided about one model."""

    plan: ModelPlan
    route: ModelRoute
    wakes: tuple[float, ...]


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
    evacuated: frozenset[str]
    """Nodes that may be emptied before there is room elsewhere."""
    targets: TargetMemory
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


def compute_plan(
    snapshot: FleetSnapshot,
    now: float,
    *,
    targets: TargetMemory | None = None,
    places: PlaceMemory | None = None,
) -> FleetPlan:
    """The plan for everything. `now` is in Unix seconds; both memories, kept from pass to pass, only save work."""
    targets = targets or TargetMemory()
    targets.forget_all_but(model.key for model in snapshot.models)
    pools = resolve_pools(snapshot.pools, snapshot.nodes)
    shared = Surroundings(
        snapshot=snapshot,
        pools=pools,
        slots=_by_model(snapshot.slots),
        node_ids=frozenset(node.node_id for node in snapshot.nodes),
        homes=homes_of(pools),
        evacuated=frozenset().union(*(evacuated_node(pool, snapshot.slots) for pool in pools)),
        targets=targets,
        now=now,
    )
    names = resolve_names(snapshot.models)
    in_order = sorted(snapshot.models, key=lambda model: model.key)
    intents = [_intend(model, names[model.key], shared) for model in in_order]
    allotment = allot(
        {each.model.key: each.claim for each in intents if each.claim is not None},
        snapshot,
        pools,
        leaving=_leaving_unclaimed(intents, shared),
        memory=places or PlaceMemory(),
    )
    outcomes = [_plan_model(each, names[each.model.key], allotment, shared) for each in intents]
    deserted = plan_deserted(_deserted(shared), snapshot, now)
    routes = [*(outcome.route for outcome in outcomes), *deserted.routes]
    occupied = _occupied(allotment.room, snapshot.slots)
    pool_plans = [_plan_pool(pool, allotment.room, occupied, shared) for pool in pools]
    wakes = [*deserted.wakes, *(wake for each in outcomes for wake in each.wakes)]
    wakes += [wake for _, times in pool_plans for wake in times]
    return FleetPlan(
        pools=tuple(plan for plan, _ in pool_plans),
        models=tuple(outcome.plan for outcome in outcomes),
        orphans=deserted.orphans,
        leaving=(*deserted.leaving, *_left_alone(snapshot)),
        routes=RouteTable(version=0, models=tuple(sorted(routes, key=lambda route: route.model))),
        unknown_routes=_unknown_routes(snapshot),
        wake_at=min((wake for wake in wakes if wake > now), default=None),
    )


def _by_model(slots: Iterable[Slot]) -> dict[ModelKey, tuple[Slot, ...]]:
    grouped: dict[ModelKey, list[Slot]] = {}
    for slot in sorted(slots, key=lambda each: each.name):
        grouped.setdefault(slot.name.model, []).append(slot)
    return {key: tuple(found) for key, found in grouped.items()}


def _deserted(shared: Surroundings) -> list[Slot]:
    """Replicas of models that are gone."""
    known = {model.key for model in shared.snapshot.models} | shared.snapshot.unreadable
    return [slot for slot in shared.snapshot.slots if slot.name.model not in known]


def _intend(model: Model, names: ServedNames, shared: Surroundings) -> Intent:
    """One model from its spec to the replicas that are missing."""
    slots = shared.slots.get(model.key, ())
    chosen = choose_target(model, names=names, pools=shared.pools, slots=slots, memory=shared.targets)
    refusal = chosen if isinstance(chosen, Refusal) else None
    target = chosen if isinstance(chosen, Target) else running_target(slots, shared.pools)
    broken = _broken(slots, shared)
    departure = Departure(
        report=shared.snapshot.report,
        drain_timeout_seconds=model.resource.spec.rollout.drain_timeout_seconds,
        now=shared.now,
    )
    claim: Claim | None = None
    if target is None:
        wanted = ScalingDecision(replicas=0, reason=refusal.message if refusal else "nothing runs")
    else:
        wanted = _scale(model, target, slots, broken=broken, shared=shared, revision_known=refusal is None)
        if shared.is_known(target.pool.name, slots):
            claim = _claim(
                model, target, slots, broken=broken, wanted=wanted, departure=departure, shared=shared
            )
    return Intent(
        model=model,
        slots=slots,
        target=target,
        refusal=refusal,
        broken=broken,
        departure=departure,
        wanted=wanted,
        claim=claim,
    )


def _plan_model(intent: Intent, names: ServedNames, allotment: Allotment, shared: Surroundings) -> Outcome:
    """One model from its places to its route."""
    if intent.claim is not None:
        rolled = plan_rollout(intent.claim.request, allotment)
    elif intent.target is None:
        closing = _closing(intent.slots, shared)
        rolled = _keep_all(intent.slots, intent.departure, broken=intent.broken, closing=closing)
    else:
        rolled = _keep_all(intent.slots, intent.departure, broken={})
    situation = _situation(intent, rolled=rolled, shared=shared)
    return _outcome(situation, names=names, target=intent.target, wanted=intent.wanted, rolled=rolled)


def _leaving_unclaimed(intents: Iterable[Intent], shared: Surroundings) -> Iterator[SlotName]:
    """Replicas on their way out of models without a claim."""
    for slot in _deserted(shared):
        yield slot.name
    for intent in intents:
        if intent.claim is None:
            yield from (slot.name for slot in intent.slots if slot.draining_since is not None)
            if intent.target is None:
                yield from (*intent.broken, *_closing(intent.slots, shared))


def _broken(slots: tuple[Slot, ...], shared: Surroundings) -> dict[SlotName, str]:
    report = shared.snapshot.report
    reasons = ((slot, breakage(slot, report=report, node_ids=shared.node_ids)) for slot in slots)
    return {slot.name: reason for slot, reason in reasons if reason is not None}


def _scale(
    model: Model,
    target: Target,
    slots: tuple[Slot, ...],
    *,
    broken: dict[SlotName, str],
    shared: Surroundings,
    revision_known: bool,
) -> ScalingDecision:
    """How many replicas are wanted. What runs without a known spec could not be started again: one at least stays."""
    report = shared.snapshot.report
    ready = [slot for slot in slots if slot.phase is SlotPhase.READY and slot.name not in broken]
    since = [slot.ready_since if slot.ready_since is not None else slot.since for slot in ready]
    return desired_replicas(
        ScalingRequest(
            scaling=model.resource.spec.scaling,
            concurrency=target.spec.concurrency,
            window=model.window,
            load=report.models.get(str(model.key)) if report else None,
            current=_current(model, target, slots),
            answered=revision_known and _has_answered(model, target, slots),
            newest_ready_at=max(since, default=None),
        ),
        shared.now,
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


def _closing(slots: tuple[Slot, ...], shared: Surroundings) -> frozenset[SlotName]:
    """Replicas on pools that are being deleted."""
    homes = ((slot.name, shared.homes.get(slot.running_on or slot.node_id)) for slot in slots)
    return frozenset(name for name, home in homes if home is not None and home.deleted)


def _keep_all(
    slots: tuple[Slot, ...],
    departure: Departure,
    *,
    broken: Mapping[SlotName, str],
    closing: frozenset[SlotName] = frozenset(),
) -> RolloutDecision:
    """Nothing can be decided anew: what is there stays, what drains goes on draining, what is broken goes."""
    plans = []
    for slot in slots:
        if slot.phase is SlotPhase.STOPPING:
            continue
        if slot.name in closing and slot.name not in broken:
            plans.append(leave(slot, "its pool is being deleted", departure))
            continue
        action = SlotAction.KEEP if slot.draining_since is None else SlotAction.DRAIN
        action = SlotAction.REMOVE if slot.name in broken else action
        reason = broken.get(slot.name, "left as it is")
        plans.append(SlotPlan.of(slot, action, reason))
    wakes = tuple(due for slot in slots if (due := timeout_at(slot, departure)) is not None)
    return RolloutDecision(slots=tuple(plans), wakes=wakes)


def _situation(intent: Intent, *, rolled: RolloutDecision, shared: Surroundings) -> Situation:
    model, target, slots = intent.model, intent.target, intent.slots
    deadline = model.resource.spec.rollout.progress_deadline_seconds
    starting = [
        slot.since + deadline for slot in _starting(slots, target) if slot.since + deadline <= shared.now
    ]
    return Situation(
        model=model,
        revision=target.revision if target else "",
        prediction=_expectation(model, target),
        refusal=intent.refusal,
        desired=intent.wanted.replicas,
        scaling_reason=intent.wanted.reason,
        slots=slots,
        kept=frozenset(plan.name for plan in rolled.slots if plan.action is SlotAction.KEEP),
        shortage=rolled.shortage,
        awaiting=rolled.awaiting,
        report_known=shared.snapshot.report is not None,
        capacity_known=shared.is_known(target.pool.name if target else model.resource.spec.pool or "", slots),
        stuck_since=min(starting, default=None),
        now=shared.now,
    )


def _expectation(model: Model, target: Target | None) -> Prediction | None:
    """What a replica should measure, by what was computed and what its like delivered."""
    if target is None or target.prediction is None:
        return None
    lately = (each for each in model.stretches if each.revision == target.revision)
    correction = correct(model.correction, lately, target.prediction.computed)
    return replace(target.prediction, correction=correction)


def _starting(slots: tuple[Slot, ...], target: Target | None) -> list[Slot]:
    over = {SlotPhase.READY, SlotPhase.STOPPING, SlotPhase.FAILED}
    revision = target.revision if target else ""
    return [slot for slot in slots if slot.phase not in over and slot.name.revision == revision]


def _outcome(
    situation: Situation,
    *,
    names: ServedNames,
    target: Target | None,
    wanted: ScalingDecision,
    rolled: RolloutDecision,
) -> Outcome:
    model, refusal = situation.model, situation.refusal
    verdicts = model_verdicts(situation)
    deadline = model.resource.spec.rollout.progress_deadline_seconds
    deadlines = [slot.since + deadline for slot in _starting(situation.slots, target)]
    due = retry_due_at(model.failure, situation.revision)
    plan = ModelPlan(
        key=model.key,
        pool=target.pool.name if target else model.resource.spec.pool or "",
        spec=target.spec if target and refusal is None else None,
        revision=target.revision if target and refusal is None else "",
        desired_replicas=wanted.replicas,
        slots=rolled.slots,
        reasons=_sentences(situation, target=target, wanted=wanted, rolled=rolled),
        verdicts=verdicts,
        prediction=situation.prediction,
        retry_at=due if due is not None and due > situation.now else None,
    )
    route = model_route(
        RouteRequest(
            model=model,
            names=names,
            refusal=refusal,
            revision=situation.revision,
            desired=wanted.replicas,
            slots={slot.name: slot for slot in situation.slots},
            plans=rolled.slots,
            waiting_for=next(v.message for v in verdicts if v.type == "Serving"),
        )
    )
    changes = [wanted.next_change_at] if wanted.next_change_at is not None else []
    return Outcome(plan=plan, route=route, wakes=(*changes, *deadlines, *rolled.wakes))


def _sentences(
    situation: Situation, *, target: Target | None, wanted: ScalingDecision, rolled: RolloutDecision
) -> tuple[str, ...]:
    refusal, prediction = situation.refusal, situation.prediction
    sentences = [refusal.message] if refusal else []
    if target:
        sentences += [*target.sentences]
        sentences += filter(None, [describe_correction(prediction)] if prediction else [])
        sentences += [wanted.reason, *rolled.sentences]
    return tuple([*sentences, rolled.shortage] if rolled.shortage else sentences)


def _left_alone(snapshot: FleetSnapshot) -> tuple[SlotPlan, ...]:
    """The replicas of models whose spec nobody can read: they are neither known to be wanted nor known not to be."""
    return tuple(
        SlotPlan.of(slot, SlotAction.KEEP, "its model's spec cannot be read; it is left as it is")
        for slot in sorted(snapshot.slots, key=lambda each: each.name)
        if slot.name.model in snapshot.unreadable and slot.phase is not SlotPhase.STOPPING
    )


def _unknown_routes(snapshot: FleetSnapshot) -> frozenset[str]:
    """Unreadable models, and those with replicas on a Ray that has not answered since this process began.

    Which those are is told by their status.
    """
    unseen = {ray.pool for ray in snapshot.rays if not ray.seen}
    return frozenset(str(key) for key in snapshot.unreadable) | frozenset(
        str(model.key)
        for model in snapshot.models
        if unseen and ("" in unseen or model.resource.status.pool in unseen)
    )


def _occupied(room: Room, slots: Iterable[Slot]) -> frozenset[str]:
    """The ids of nodes that a replica runs on or has its place on."""
    held = (node_id_of(name) for name, stand in room.stands.items() if stand.holds)
    return frozenset(held).union(slot.running_on or slot.node_id for slot in slots)


def _plan_pool(
    pool: Pool, room: Room, occupied: frozenset[str], shared: Surroundings
) -> tuple[PoolPlan, tuple[float, ...]]:
    """The pool's plan, and when it would change by time alone."""
    rays = [ray for ray in shared.snapshot.rays if ray.pool in {"", pool.name}]
    workers = plan_workers(pool, occupied, rays=rays, slots=shared.snapshot.slots, now=shared.now)
    known = all(ray.answers or ray.retiring for ray in rays)
    there = [*pool.present, *pool.retiring]
    accelerators = sum(node.accelerators for node in there) if not pool.is_cpu else 0
    memory = sum(pool.usable_memory_bytes(node) for node in there)
    if not pool.is_cpu:
        memory = sum(node.accelerators * pool.usable_accelerator_bytes(node) for node in there)
    used = {node.node_id: _used(node, pool, room) for node in there}
    plan = PoolPlan(
        name=pool.name,
        accelerator=pool.accelerator,
        nodes=len(there),
        accelerators=accelerators,
        accelerators_used=sum(used.values()) if not pool.is_cpu else 0,
        memory_bytes=memory,
        memory_used_bytes=sum(
            used[node.node_id] * (1 if pool.is_cpu else pool.usable_accelerator_bytes(node)) for node in there
        ),
        verdicts=pool_verdicts(
            pool, capacity_known=known, trouble=shared.snapshot.troubles.get(pool.name, "")
        ),
        workers=workers.groups,
        workers_ready=sum(1 for node in there if node.worker),
        rays=tuple(sorted(ray.name for ray in rays if ray.name)),
        retired=workers.retired,
        reasons=workers.reasons,
    )
    return plan, workers.wakes


def _used(node: Node, pool: Pool, room: Room) -> int:
    """What is promised to replicas: bytes of a CPU pool's memory, else whole accelerators."""
    stand = room.stands.get(host_name(node, pool))
    if stand is None:
        return 0
    if pool.is_cpu:
        return stand.host.whole - max(0, *stand.free)
    return sum(1 for free in stand.free if free < stand.host.whole)
