from __future__ import annotations

from dataclasses import replace
from typing import Any

from plinth.api.v1alpha1 import Condition, ModelDeploymentStatus
from plinth.desired.statuses import date_conditions, format_time, look, model_status, pool_status
from plinth.domain.fleet import FleetSnapshot, Slot, SlotPhase, Verdict
from plinth.domain.planner import compute_plan
from plinth.domain.quantities import MIB
from plinth.tests.domain.builders import (
    make_model,
    make_node,
    make_pool,
    make_qwen_artifact,
    make_report,
    make_slot,
    make_snapshot,
    make_window,
)

NOW = 1_000_000_000.0
FRESH = compute_plan(make_snapshot(), 0.0).models[0]


def status_of(snapshot: FleetSnapshot, now: float = NOW) -> ModelDeploymentStatus:
    plan = compute_plan(snapshot, now)
    first = plan.models[0]
    return model_status(first, snapshot.models[0].resource, look(snapshot, plan)[first.key], now)


def replica(ordinal: int = 0, **changes: Any) -> Slot:
    return make_slot(
        FRESH.revision, ordinal, spec=FRESH.spec, memory_bytes=FRESH.slots[0].needs.memory_bytes, **changes
    )


def ready_verdict(status: bool | None, message: str = "m") -> Verdict:  # noqa: FBT001 - a condition's status
    return Verdict(type="Ready", status=status, reason="Serving", message=message)


def test_a_serving_models_status_answers_what_is_asked_of_it() -> None:
    snapshot = make_snapshot(
        models=(make_model(generation=4),), slots=(replica(),), report=make_report(load=3, queued=2)
    )
    status = status_of(snapshot)
    assert (status.replicas, status.ready_replicas, status.desired_replicas) == (1, 1, 1)
    assert (status.shape, status.engine, status.pool) == ("1xTP1", "LlamaCpp", "default")
    assert (status.queued, status.reason, status.observed_generation) == (2, "Serving", 4)
    assert status.revision == status.answered_revision == FRESH.revision
    assert status.selector == "plinth.dev/model=default.chat"
    assert status.plan[0] == "LlamaCpp: the engine for GGUF on CPU"


def test_a_revision_has_answered_once_a_replica_of_it_was_ready_and_stays_so() -> None:
    before = status_of(make_snapshot(slots=(replica(phase=SlotPhase.PROBING),)))
    assert before.answered_revision == ""
    kept = make_model(status={"answeredRevision": FRESH.revision})
    assert status_of(make_snapshot(models=(kept,))).answered_revision == FRESH.revision


def test_a_replica_that_is_drained_as_soon_as_it_is_ready_has_answered_all_the_same() -> None:
    asleep = make_model(scaling={"minReplicas": 0}, window=make_window())
    status = status_of(make_snapshot(models=(asleep,), slots=(replica(),), report=make_report()))
    assert (status.desired_replicas, status.ready_replicas) == (0, 0)
    assert status.answered_revision == FRESH.revision


def test_while_there_is_no_shape_the_revision_last_asked_for_stays() -> None:
    model = make_model(reading=True, status={"revision": "12345678"})
    assert status_of(make_snapshot(models=(model,))).revision == "12345678"


def test_progress_lists_the_starting_replicas_with_their_percent() -> None:
    starting = replica(phase=SlotPhase.DOWNLOADING, bytes_done=25 * MIB, bytes_total=98 * MIB, eta_seconds=9)
    progress = status_of(make_snapshot(slots=(starting,))).progress
    assert [(each.replica, each.phase, each.percent, each.eta_seconds) for each in progress] == [
        (str(starting.name), "Downloading", 25, 9)
    ]


def test_replicas_on_accelerators_cost_by_the_accelerator() -> None:
    qwen = make_model(
        artifact=make_qwen_artifact(),
        source="hf://a/b",
        parallelism={"tensor": 2},
        scaling={"minReplicas": 2, "maxReplicas": 2},
    )
    pool = make_pool("h200", costPerAcceleratorHour="3.90")
    snapshot = make_snapshot(models=(qwen,), nodes=(make_node(accelerators=8),), pools=(pool,))
    status = status_of(snapshot)
    assert (status.shape, status.accelerators, status.cost_per_hour) == ("2xTP2", 4, "15.6")


def test_replicas_on_cpus_cost_by_the_node() -> None:
    model = make_model(scaling={"minReplicas": 3, "maxReplicas": 3})
    pool = make_pool("cpu", costPerAcceleratorHour="0.50")
    snapshot = make_snapshot(models=(model,), nodes=(make_node("a"), make_node("b")), pools=(pool,))
    assert status_of(snapshot).cost_per_hour == "1"


def test_the_reason_is_that_of_ready_unless_an_edit_was_refused() -> None:
    assert status_of(make_snapshot(slots=(replica(phase=SlotPhase.LOADING),))).reason == "Starting"
    refused = make_model(invalid_edit="line 3: spec.scale: unknown field")
    assert status_of(make_snapshot(models=(refused,), slots=(replica(),))).reason == "InvalidSpec"


def test_long_plans_and_messages_are_bounded() -> None:
    model = make_model(invalid_edit="x" * 10_000)
    status = status_of(make_snapshot(models=(model,), slots=(replica(),)))
    assert max(len(condition.message) for condition in status.conditions) <= 4096
    assert len(status.plan) <= 32


def test_a_conditions_time_moves_only_when_its_status_flips() -> None:
    timeline = [
        (0, ready_verdict(None), "2001-09-09T01:46:40Z"),
        (5, ready_verdict(status=False), "2001-09-09T01:46:45Z"),
        (9, ready_verdict(False, "another message"), "2001-09-09T01:46:45Z"),  # noqa: FBT003 - as above
        (12, ready_verdict(status=True), "2001-09-09T01:46:52Z"),
        (60, ready_verdict(status=True), "2001-09-09T01:46:52Z"),
    ]
    conditions: list[Condition] = []
    for seconds, verdict, expected in timeline:
        conditions = date_conditions([verdict], conditions, 1, NOW + seconds)
        assert conditions[0].last_transition_time == expected
        assert conditions[0].message == verdict.message


def test_a_condition_tells_the_generation_it_was_made_from() -> None:
    conditions = date_conditions([ready_verdict(status=True)], [], 7, NOW)
    assert (conditions[0].observed_generation, conditions[0].status) == (7, "True")


def test_an_unchanged_world_gives_an_equal_status_later() -> None:
    snapshot = make_snapshot(slots=(replica(),), report=make_report())
    first = status_of(snapshot)
    resource = snapshot.models[0].resource.model_copy(update={"status": first})
    later = replace(snapshot, models=(replace(snapshot.models[0], resource=resource),))
    assert status_of(later, NOW + 500) == first


def test_a_pools_status_tells_what_is_there_and_taken() -> None:
    pool = make_pool("default")
    slot = make_slot(node_id="g", accelerators=2)
    snapshot = make_snapshot(models=(), nodes=(make_node("g", accelerators=8),), slots=(slot,), pools=(pool,))
    status = pool_status(compute_plan(snapshot, NOW).pools[0], pool, NOW)
    assert (status.nodes, status.accelerator, status.accelerators, status.accelerators_used) == (
        1,
        "H200",
        8,
        2,
    )
    assert [(each.type, each.status) for each in status.conditions] == [("Ready", "True")]


def test_times_are_told_in_utc_to_the_second() -> None:
    assert format_time(0.9) == "1970-01-01T00:00:00Z"


def test_the_status_says_the_whole_plan_and_cuts_no_sentence() -> None:
    long = "not TP8: " + "x" * 700
    plan = replace(
        FRESH, reasons=(*FRESH.reasons, *(f"not TP{number}: too small" for number in range(16)), long)
    )
    snapshot = make_snapshot()
    seen = look(snapshot, compute_plan(snapshot, NOW))[FRESH.key]
    status = model_status(plan, snapshot.models[0].resource, seen, NOW)
    assert status.plan == list(plan.reasons)
    assert ModelDeploymentStatus.model_validate(status.model_dump(by_alias=True)) == status
