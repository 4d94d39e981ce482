"""What must hold of every plan, whatever the fleet looks like."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from plinth.api.v1alpha1 import ConditionType
from plinth.domain.allotment import PlaceMemory
from plinth.domain.fleet import (
    FailureRecord,
    FleetPlan,
    FleetSnapshot,
    Model,
    ModelKey,
    ModelPlan,
    Node,
    Ray,
    Slot,
    SlotAction,
    SlotName,
    SlotPhase,
    SlotPlace,
)
from plinth.domain.planner import compute_plan
from plinth.domain.pools import resolve_pools
from plinth.domain.quantities import MIB
from plinth.domain.targets import TargetMemory
from plinth.domain.traffic import LoadReport, ModelLoad, ReplicaLoad, ReplicaState
from plinth.tests.domain.builders import make_model, make_node, make_snapshot, make_window
from plinth.tests.searching import examples

NOW = 1000.0
NAMES = ("a", "b", "c")
DEAD_PHASES = {SlotPhase.FAILED, SlotPhase.STOPPING}


@cache
def fresh_plan(name: str) -> ModelPlan:
    """What is planned for the model when nothing runs."""
    return compute_plan(make_snapshot(models=(make_model(name),)), 0.0).models[0]


@st.composite
def models(draw: st.DrawFn, name: str) -> Model:
    least = draw(st.integers(0, 3))
    revision = fresh_plan(name).revision
    failing = draw(st.booleans())
    failure = FailureRecord(
        revision=revision, count=draw(st.integers(1, 5)), last_at=NOW - 15, message="boom"
    )
    samples = draw(st.lists(st.tuples(st.floats(900, NOW), st.integers(0, 60)), max_size=5))
    return make_model(
        name,
        first_seen=draw(st.floats(0, 10)),
        reading=draw(st.integers(0, 9)) == 0,
        answered_revision=draw(st.sampled_from(["", revision])),
        window=make_window(*sorted(samples), since=draw(st.none() | st.floats(0, NOW))),
        failure=failure if failing else None,
        scaling={"minReplicas": least, "maxReplicas": max(1, least + draw(st.integers(0, 3)))},
        status={"desiredReplicas": draw(st.integers(0, 6))},
        priority=draw(st.integers(0, 2)),
    )


@st.composite
def slots_of(draw: st.DrawFn, name: str, nodes: tuple[Node, ...]) -> list[Slot]:
    """Replicas of the wanted revision and of older ones, in every phase."""
    fresh = fresh_plan(name)
    assert fresh.spec is not None
    old = replace(fresh.spec, context_tokens=1024)
    found = []
    for ordinal in range(draw(st.integers(0, 4))):
        is_old = draw(st.booleans())
        phase = draw(st.sampled_from(SlotPhase))
        reachable = phase is not SlotPhase.PENDING
        found.append(
            Slot(
                name=SlotName(ModelKey("default", name), "0ld00000" if is_old else fresh.revision, ordinal),
                spec=old if is_old else fresh.spec,
                needs=fresh.slots[0].needs,
                place=(SlotPlace(draw(st.sampled_from(nodes)).node_id),),
                running_on=None,
                phase=phase,
                host="127.0.0.1" if reachable else None,
                port=30000 + ordinal if reachable else None,
                since=draw(st.floats(0, NOW)),
                draining_since=draw(st.none() | st.floats(NOW - 3000, NOW)),
            )
        )
    return found


@st.composite
def snapshots(draw: st.DrawFn) -> FleetSnapshot:
    nodes = tuple(
        make_node(f"node-{number}", memory_bytes=draw(st.integers(1, 5)) * 1000 * MIB)
        for number in range(draw(st.integers(1, 3)))
    )
    present = [name for name in NAMES if draw(st.booleans())]
    slots = [slot for name in NAMES for slot in draw(slots_of(name, nodes))]
    replicas = {
        str(slot.name): ReplicaLoad(
            in_flight=draw(st.integers(0, 2)), state=draw(st.sampled_from(ReplicaState))
        )
        for slot in slots
        if draw(st.booleans())
    }
    loads = {
        f"default/{name}": ModelLoad(
            in_flight=draw(st.integers(0, 40)), queued=draw(st.integers(0, 5)), peak=0
        )
        for name in present
        if draw(st.booleans())
    }
    report = LoadReport(gateway="g", table_version=1, models=loads, replicas=replicas)
    return make_snapshot(
        models=tuple(draw(models(name)) for name in present),
        nodes=nodes,
        slots=tuple(slots),
        report=report if draw(st.booleans()) else None,
        rays=(Ray(answers=draw(st.integers(0, 5)) > 0),),
    )


def planned(plan: FleetPlan) -> dict[SlotName, SlotAction]:
    found = {slot.name: slot.action for model in plan.models for slot in model.slots}
    found |= {slot.name: slot.action for slot in plan.leaving}
    return found | dict.fromkeys(plan.orphans, SlotAction.REMOVE)


@given(snapshots())
@examples(50)
def test_every_slot_gets_exactly_one_fate_and_only_new_names_are_created(snapshot: FleetSnapshot) -> None:
    plan = compute_plan(snapshot, NOW)
    fates = planned(plan)
    alive = {slot.name for slot in snapshot.slots if slot.phase is not SlotPhase.STOPPING}
    created = {name for name, action in fates.items() if action is SlotAction.CREATE}
    assert fates.keys() - created == alive
    assert not created & {slot.name for slot in snapshot.slots}
    listed = [slot.name for model in plan.models for slot in model.slots] + [
        slot.name for slot in plan.leaving
    ]
    assert len(listed) == len(set(listed))


@given(snapshots())
@examples(50)
def test_new_replicas_never_take_more_than_is_free(snapshot: FleetSnapshot) -> None:
    plan = compute_plan(snapshot, NOW)
    pool = resolve_pools((), snapshot.nodes)[0]
    for node in snapshot.nodes:
        held = sum(slot.needs.memory_bytes for slot in snapshot.slots if slot.node_id == node.node_id)
        new = [
            slot.needs.memory_bytes
            for model in plan.models
            for slot in model.slots
            if slot.action is SlotAction.CREATE and slot.node_id == node.node_id
        ]
        assert not new or held + sum(new) <= pool.usable_memory_bytes(node)


@given(snapshots())
@examples(50)
def test_no_replica_with_requests_in_flight_is_removed_before_its_timeout(snapshot: FleetSnapshot) -> None:
    fates = planned(compute_plan(snapshot, NOW))
    for slot in snapshot.slots:
        load = snapshot.report.replicas.get(str(slot.name)) if snapshot.report else None
        lost = slot.phase in DEAD_PHASES or (load is not None and load.state is ReplicaState.DEAD)
        timed_out = slot.draining_since is not None and NOW - slot.draining_since >= 3600
        busy = load is not None and load.in_flight > 0
        unknown = load is None and slot.phase is SlotPhase.READY
        if (busy or unknown) and not lost and not timed_out:
            assert fates[slot.name] is not SlotAction.REMOVE


@given(snapshots(), st.randoms(use_true_random=False))
@examples(40)
def test_the_order_in_which_things_are_seen_does_not_matter(snapshot: FleetSnapshot, chance: object) -> None:
    def shuffled(items: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(chance.sample(items, len(items)))  # type: ignore[attr-defined]  # Hypothesis' seeded Random

    mixed = replace(
        snapshot,
        models=shuffled(snapshot.models),  # type: ignore[arg-type]  # a permutation of the same
        nodes=shuffled(snapshot.nodes),  # type: ignore[arg-type]  # a permutation of the same
        slots=shuffled(snapshot.slots),  # type: ignore[arg-type]  # a permutation of the same
    )
    assert compute_plan(mixed, NOW) == compute_plan(snapshot, NOW)


@given(snapshots(), snapshots())
@examples(50)
def test_what_is_remembered_of_an_earlier_pass_makes_no_difference(
    before: FleetSnapshot, after: FleetSnapshot
) -> None:
    now = replace(after, models=before.models)
    targets, places = TargetMemory(), PlaceMemory()
    compute_plan(before, NOW, targets=targets, places=places)
    assert compute_plan(now, NOW, targets=targets, places=places) == compute_plan(now, NOW)


@given(snapshots())
@examples(40)
def test_desired_replicas_stay_within_the_bounds(snapshot: FleetSnapshot) -> None:
    plan = compute_plan(snapshot, NOW)
    bounds = {model.key: model.resource.spec.scaling for model in snapshot.models}
    for model in plan.models:
        most = bounds[model.key].max_replicas
        assert model.desired_replicas <= most
        if model.spec is not None:
            assert model.desired_replicas >= bounds[model.key].min_replicas
        # By revision: while a new one fails, an old replica that broke is replaced beside the new one's next try.
        created = Counter(slot.name.revision for slot in model.slots if slot.action is SlotAction.CREATE)
        assert max(created.values(), default=0) <= most


@given(snapshots())
@examples(40)
def test_every_model_has_every_condition_once_and_a_route(snapshot: FleetSnapshot) -> None:
    plan = compute_plan(snapshot, NOW)
    for model in plan.models:
        kinds = [verdict.type for verdict in model.verdicts]
        assert len(kinds) == len(set(kinds)) == len(ConditionType)
    assert {str(model.key) for model in snapshot.models} <= {route.model for route in plan.routes.models}
    assert plan.wake_at is None or plan.wake_at > NOW


@given(snapshots())
@examples(40)
def test_only_ready_replicas_that_stay_or_drain_are_routed_to(snapshot: FleetSnapshot) -> None:
    plan = compute_plan(snapshot, NOW)
    ready = {str(slot.name) for slot in snapshot.slots if slot.phase is SlotPhase.READY}
    fates = {str(name): action for name, action in planned(plan).items()}
    expected = {SlotAction.KEEP: ReplicaState.READY, SlotAction.DRAIN: ReplicaState.DRAINING}
    for route in plan.routes.models:
        for replica in route.replicas:
            assert replica.slot in ready
            assert replica.state is expected[fates[replica.slot]]


@given(snapshots())
@examples(40)
def test_while_ray_is_away_nothing_is_created_or_removed(snapshot: FleetSnapshot) -> None:
    fates = planned(compute_plan(replace(snapshot, rays=(Ray(answers=False),)), NOW))
    assert set(fates.values()) <= {SlotAction.KEEP, SlotAction.DRAIN}


@given(snapshots())
@examples(40)
def test_once_carried_out_in_full_the_plan_changes_nothing_more(snapshot: FleetSnapshot) -> None:
    """Everything created is ready, everything removed gone, everything drained idle: within a few passes, peace."""
    current = replace(
        snapshot, rays=(Ray(),), models=tuple(replace(model, failure=None) for model in snapshot.models)
    )
    for _ in range(12):
        plan = compute_plan(current, NOW)
        if set(planned(plan).values()) <= {SlotAction.KEEP}:
            break
        current = carried_out(current, plan)
    assert set(planned(compute_plan(current, NOW)).values()) <= {SlotAction.KEEP}


def carried_out(snapshot: FleetSnapshot, plan: FleetPlan) -> FleetSnapshot:
    """The fleet after a plan was obeyed; its replicas are idle and the load is what it was."""
    fates = planned(plan)
    plans = {slot.name: slot for model in plan.models for slot in model.slots}
    stayed = [
        replace(
            slot, draining_since=NOW if fates[slot.name] is SlotAction.DRAIN else None, phase=SlotPhase.READY
        )
        for slot in snapshot.slots
        if fates.get(slot.name) in {SlotAction.KEEP, SlotAction.DRAIN}
    ]
    stayed = [replace(slot, host="127.0.0.1", port=1) for slot in stayed]
    born = [
        Slot(
            name=name,
            spec=plans[name].spec,
            needs=plans[name].needs,
            place=plans[name].place,
            running_on=plans[name].node_id,
            phase=SlotPhase.READY,
            replaces=plans[name].replaces,
            host="127.0.0.1",
            port=1,
        )
        for name, action in fates.items()
        if action is SlotAction.CREATE
    ]
    states = {SlotAction.DRAIN: ReplicaState.DRAINING}
    replicas = {
        str(slot.name): ReplicaLoad(in_flight=0, state=states.get(fates[slot.name], ReplicaState.READY))
        for slot in [*stayed, *born]
    }
    desired = {model.key: model.desired_replicas for model in plan.models}
    wanted = {model.key: model.revision for model in plan.models}
    answered = {
        slot.name.model for slot in [*stayed, *born] if slot.name.revision == wanted.get(slot.name.model)
    }
    models = tuple(
        replace(
            model,
            answered_revision=wanted[model.key] if model.key in answered else model.answered_revision,
            resource=model.resource.model_copy(
                update={
                    "status": model.resource.status.model_copy(
                        update={"desired_replicas": desired[model.key]}
                    )
                }
            ),
        )
        for model in snapshot.models
    )
    loads = snapshot.report.models if snapshot.report else {}
    report = LoadReport(gateway="g", table_version=2, models=loads, replicas=replicas)
    return replace(snapshot, slots=(*stayed, *born), report=report, models=models)
