"""Second step of a pass: one plan for all pools and models, a pure function of the snapshot and `now`.

    pools -> names -> for each model: target (engine, shape) -> replicas wanted -> sides, claim
    -> places for all models at once -> for each model: rollout -> conditions -> routes

A plan does not depend on how the snapshot was put together, nor on the order in which models are looked at.
While Ray is away nothing is created, moved or removed: every slot is kept as it was last seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from plinth.domain.allotment import Allotment, PlaceMemory, allot
from plinth.domain.at_rest import Outcome, Rest
from plinth.domain.conditions import Situation, model_verdicts
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
    Slot,
    SlotAction,
    SlotName,
    SlotPhase,
    SlotPlan,
)
from plinth.domain.health import retry_due_at
from plinth.domain.intents import Intent, Surroundings, intend, look_around
from plinth.domain.naming import ServedNames
from plinth.domain.pool_plans import occupied_nodes, plan_pool
from plinth.domain.relations import ALONE, Relations
from plinth.domain.rollout import RolloutDecision, plan_rollout
from plinth.domain.routes import RouteRequest, model_route
from plinth.domain.scaling import ScalingDecision
from plinth.domain.targets import Target, TargetMemory
from plinth.domain.traffic import RouteTable


def compute_plan(
    snapshot: FleetSnapshot,
    now: float,
    *,
    targets: TargetMemory | None = None,
    places: PlaceMemory | None = None,
    rest: Rest | None = None,
) -> FleetPlan:
    """The plan for everything. `now` is in Unix seconds; the memories, kept from pass to pass, only save work."""
    targets, rest = targets or TargetMemory(), rest or Rest()
    targets.forget_all_but(model.key for model in snapshot.models)
    shared = look_around(snapshot, now, targets)
    names = rest.names.resolve(snapshot.models)
    relations = rest.relations.resolve(snapshot.models, names)
    by_right = sorted(snapshot.models, key=lambda model: _turn(model, shared))
    rest.look_around(snapshot)
    intents = [
        rest.intent(model, names[model.key], relations.get(model.key, ALONE), shared)
        or intend(model, names[model.key], shared)
        for model in by_right
    ]
    intents.sort(key=lambda each: each.model.key)
    allotment = allot(
        {each.model.key: each.claim for each in intents if each.claim is not None},
        snapshot,
        shared.pools,
        leaving=_leaving_unclaimed(intents, shared),
        memory=places or PlaceMemory(),
    )
    rest.disturb(allotment.disturbed)
    outcomes = [
        rest.outcome(each)
        or _plan_model(
            each, names[each.model.key], relations.get(each.model.key, ALONE), allotment, shared=shared
        )
        for each in intents
    ]
    rest.keep(names, relations, zip(intents, outcomes, strict=True))
    deserted = plan_deserted(_deserted(shared), snapshot, now)
    routes = [*(outcome.route for outcome in outcomes), *deserted.routes]
    occupied = occupied_nodes(allotment.room, snapshot.slots)
    pool_plans = [plan_pool(pool, allotment.room, occupied, snapshot, now) for pool in shared.pools]
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


def _turn(model: Model, shared: Surroundings) -> tuple[int, bool, float, ModelKey]:
    """When a model may choose among pools, as places are given: by priority, what runs, who was there first."""
    return (-model.resource.spec.priority, model.key not in shared.slots, model.first_seen, model.key)


def _deserted(shared: Surroundings) -> list[Slot]:
    """Replicas of models that are gone."""
    known = {model.key for model in shared.snapshot.models} | shared.snapshot.unreadable
    return [slot for key, slots in shared.slots.items() if key not in known for slot in slots]


def _plan_model(
    intent: Intent,
    names: ServedNames,
    relations: Relations,
    allotment: Allotment,
    *,
    shared: Surroundings,
) -> Outcome:
    """One model from its places to its route."""
    if intent.claim is not None:
        rolled = plan_rollout(intent.claim.request, allotment)
    elif intent.target is None:
        closing = _closing(intent.slots, shared)
        rolled = _keep_all(intent.slots, intent.departure, broken=intent.broken, closing=closing)
    else:
        rolled = _keep_all(intent.slots, intent.departure, broken={})
    situation = _situation(intent, relations=relations, rolled=rolled, shared=shared)
    return _outcome(situation, names=names, intent=intent, rolled=rolled, shared=shared)


def _leaving_unclaimed(intents: Iterable[Intent], shared: Surroundings) -> Iterator[SlotName]:
    """Replicas on their way out of models without a claim."""
    for slot in _deserted(shared):
        yield slot.name
    for intent in intents:
        if intent.claim is None:
            yield from (slot.name for slot in intent.slots if slot.draining_since is not None)
            if intent.target is None:
                yield from (*intent.broken, *_closing(intent.slots, shared))


def _closing(slots: tuple[Slot, ...], shared: Surroundings) -> frozenset[SlotName]:
    """Replicas on pools that are being deleted."""
    return frozenset(
        slot.name
        for slot in slots
        if any(shared.homes[node_id].deleted for node_id in slot.nodes if node_id in shared.homes)
    )


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


def _situation(
    intent: Intent, *, relations: Relations, rolled: RolloutDecision, shared: Surroundings
) -> Situation:
    model, target, slots = intent.model, intent.target, intent.slots
    deadline = model.resource.spec.rollout.progress_deadline_seconds
    starting = [
        slot.since + deadline for slot in _starting(slots, target) if slot.since + deadline <= shared.now
    ]
    return Situation(
        model=model,
        relations=relations,
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
    intent: Intent,
    rolled: RolloutDecision,
    shared: Surroundings,
) -> Outcome:
    model, refusal = situation.model, situation.refusal
    target, wanted = intent.target, intent.wanted
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
        rejected=target.rejected if target and refusal is None else (),
        retry_at=due if due is not None and due > situation.now else None,
    )
    route = model_route(
        RouteRequest(
            model=model,
            names=names,
            relations=situation.relations,
            refusal=refusal,
            revision=situation.revision,
            wanted=target.spec if target else None,
            desired=wanted.replicas,
            slots={slot.name: slot for slot in situation.slots},
            plans=rolled.slots,
            accelerators=shared.accelerators,
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
    if not snapshot.unreadable:
        return ()
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
