from dataclasses import replace
from typing import Any

import pytest

from plinth.api.v1alpha1 import SENTENCES, ConditionType, Reason
from plinth.domain.fleet import (
    ArtifactRefusal,
    FailureRecord,
    FleetSnapshot,
    Ray,
    Slot,
    SlotPhase,
    Verdict,
)
from plinth.domain.planner import compute_plan
from plinth.domain.quantities import GIB, MIB
from plinth.tests.domain.builders import (
    draining,
    make_figures,
    make_model,
    make_node,
    make_pool,
    make_report,
    make_slot,
    make_snapshot,
    make_window,
)

FRESH = compute_plan(make_snapshot(), 0.0).models[0]
REVISION = FRESH.revision


def verdicts(snapshot: FleetSnapshot, now: float = 1000.0) -> dict[str, Verdict]:
    return {verdict.type: verdict for verdict in compute_plan(snapshot, now).models[0].verdicts}


def short(found: dict[str, Verdict], kind: ConditionType) -> tuple[bool | None, str]:
    return found[kind].status, found[kind].reason


def replica(ordinal: int = 0, revision: str = REVISION, **changes: Any) -> Slot:
    return make_slot(
        revision, ordinal, spec=FRESH.spec, memory_bytes=FRESH.slots[0].needs.memory_bytes, **changes
    )


def serving_snapshot(**changes: Any) -> FleetSnapshot:
    slots = (replica(figures=make_figures()),)
    return make_snapshot(models=(make_model(**changes),), slots=slots, report=make_report())


def test_every_condition_is_set_on_the_first_pass() -> None:
    found = verdicts(make_snapshot())
    assert list(found) == [kind.value for kind in ConditionType]
    assert all(Reason(verdict.reason) in SENTENCES and verdict.message for verdict in found.values())


def test_a_model_that_serves_as_asked_is_ready() -> None:
    found = verdicts(serving_snapshot())
    statuses = {kind: verdict.status for kind, verdict in found.items()}
    assert statuses == dict.fromkeys(ConditionType, True) | {ConditionType.STALLED: False}
    assert short(found, ConditionType.READY) == (True, "Serving")


def test_a_starting_replica_speaks_through_serving_and_ready() -> None:
    loading = replica(phase=SlotPhase.DOWNLOADING, bytes_done=50 * MIB, bytes_total=100 * MIB, eta_seconds=65)
    found = verdicts(make_snapshot(slots=(loading,)))
    assert short(found, ConditionType.SERVING) == (False, "Downloading")
    assert found[ConditionType.READY].message == (
        f"default.chat.{REVISION}.0 is downloading, 50.0 MiB of 100.0 MiB, about 1 min 5 s left"
    )


def test_at_zero_replicas_a_revision_that_answered_is_ready() -> None:
    model = make_model(scaling={"minReplicas": 0}, answered_revision=REVISION, window=make_window())
    found = verdicts(make_snapshot(models=(model,), report=make_report()))
    assert short(found, ConditionType.READY) == (True, "ScaledToZero")
    assert short(found, ConditionType.SERVING) == (False, "ScaledToZero")


def test_at_zero_replicas_a_revision_that_never_answered_is_not_ready() -> None:
    model = make_model(scaling={"minReplicas": 0}, answered_revision="00000000", window=make_window())
    found = verdicts(make_snapshot(models=(model,), report=make_report()))
    assert short(found, ConditionType.READY) == (False, "Starting")


def test_an_engine_that_died_shows_its_last_log_lines() -> None:
    failure = FailureRecord(
        revision=REVISION, count=2, last_at=999.0, message="died\nCUDA error: out of memory"
    )
    found = verdicts(make_snapshot(models=(make_model(failure=failure),)))
    assert short(found, ConditionType.SERVING) == (False, "EngineFailed")
    assert found[ConditionType.READY].message.startswith(
        "died\nCUDA error: out of memory (2 failed starts in a row)"
    )


def test_a_failure_that_is_not_counted_yet_shows_too() -> None:
    found = verdicts(make_snapshot(slots=(replica(phase=SlotPhase.FAILED, message="boom"),)))
    assert found[ConditionType.SERVING].message == "boom"


def test_a_new_revision_that_fails_is_stuck_while_the_old_serves() -> None:
    failure = FailureRecord(revision=REVISION, count=1, last_at=999.0, message="bad weights")
    found = verdicts(make_snapshot(models=(make_model(failure=failure),), slots=(make_slot("0ld00000"),)))
    assert short(found, ConditionType.SERVING) == (True, "Serving")
    assert short(found, ConditionType.UPDATED) == (False, "RolloutStuck")
    assert (
        found[ConditionType.UPDATED].message == f"{REVISION} failed: bad weights; the old one keeps serving"
    )
    assert short(found, ConditionType.READY) == (False, "RolloutStuck")


def test_a_rollout_is_stuck_once_its_deadline_is_over_and_not_before() -> None:
    model = make_model(rollout={"progressDeadlineSeconds": 600})
    slots = (make_slot("0ld00000"), replica(phase=SlotPhase.LOADING, since=400.0))
    snapshot = make_snapshot(models=(model,), slots=slots)
    assert short(verdicts(snapshot, 999.0), ConditionType.UPDATED) == (False, "RollingOut")
    assert short(verdicts(snapshot, 1000.0), ConditionType.UPDATED) == (False, "RolloutStuck")
    assert "progressDeadlineSeconds (10 min)" in verdicts(snapshot, 1000.0)[ConditionType.UPDATED].message


def test_a_long_stream_on_a_draining_old_replica_does_not_hold_the_rollout_open() -> None:
    old = make_slot("0ld00000", draining_since=990.0)
    report = make_report(replicas={str(old.name): draining(in_flight=1)})
    found = verdicts(make_snapshot(slots=(replica(), old), report=report))
    assert short(found, ConditionType.UPDATED) == (True, "UpToDate")
    assert short(found, ConditionType.READY) == (True, "Serving")


def test_an_invalid_edit_is_not_accepted_yet_what_runs_stays_ready() -> None:
    found = verdicts(serving_snapshot(invalid_edit="spec.scaling: minReplicas must not exceed maxReplicas"))
    assert short(found, ConditionType.ACCEPTED) == (False, "InvalidSpec")
    assert short(found, ConditionType.READY) == (True, "Serving")
    assert found[ConditionType.READY].message == "1 replica ready; a newer edit was refused, see Accepted"


@pytest.mark.parametrize(
    ("changes", "kind", "reason"),
    [
        ({"pool": "nowhere"}, ConditionType.ACCEPTED, "PoolNotFound"),
        ({"parallelism": {"tensor": 2}}, ConditionType.PLANNED, "ShapeImpossible"),
        ({"engine": {"type": "VLLM"}, "source": "hf://a/b"}, ConditionType.PLANNED, "EngineUnsuitable"),
        (
            {"artifact": ArtifactRefusal(reason="UnknownSource", message="ftp:// is not known")},
            ConditionType.ACCEPTED,
            "UnknownSource",
        ),
        (
            {"artifact": ArtifactRefusal(reason="ModelNotFound", message="nothing there")},
            ConditionType.PLANNED,
            "ModelNotFound",
        ),
    ],
)
def test_a_refusal_stands_where_it_belongs_and_ready_repeats_it(
    changes: dict[str, Any], kind: ConditionType, reason: str
) -> None:
    found = verdicts(make_snapshot(models=(make_model(**changes),)))
    assert short(found, kind) == (False, reason)
    assert short(found, ConditionType.READY) == (False, reason)
    assert found[ConditionType.READY].message == found[kind].message


def test_a_replica_that_measures_otherwise_than_predicted_is_not_as_predicted_and_serves_all_the_same() -> (
    None
):
    slots = (replica(figures=make_figures()), replica(1, figures=make_figures(kv_tokens=10_000)))
    model = make_model(scaling={"minReplicas": 2, "maxReplicas": 2})
    found = verdicts(make_snapshot(models=(model,), slots=slots, report=make_report()))
    assert short(found, ConditionType.AS_PREDICTED) == (False, "FiguresPart")
    assert found[ConditionType.AS_PREDICTED].message == (
        f"default.chat.{REVISION}.1: KV cache 16k tokens predicted, 10k tokens measured"
    )
    assert short(found, ConditionType.READY) == (True, "Serving")


def test_figures_count_only_of_ready_replicas_of_the_wanted_revision() -> None:
    old = make_slot("0ld00000", figures=make_figures(kv_tokens=1))
    loading = replica(phase=SlotPhase.LOADING, figures=make_figures(kv_tokens=1))
    found = verdicts(make_snapshot(slots=(old, loading), report=make_report()))
    assert short(found, ConditionType.AS_PREDICTED) == (None, "NotMeasured")


def test_what_is_still_being_found_out_is_unknown_not_false() -> None:
    reading = verdicts(make_snapshot(models=(make_model(reading=True),)))
    assert short(reading, ConditionType.PLANNED) == (None, "ReadingModel")
    assert short(reading, ConditionType.READY) == (None, "ReadingModel")
    away = verdicts(make_snapshot(nodes=(), rays=(Ray(answers=False),)))
    assert short(away, ConditionType.PLANNED) == (None, "CapacityAway")
    assert short(away, ConditionType.READY) == (None, "CapacityAway")


def test_replicas_beyond_the_least_may_lack_room_without_the_model_being_unready() -> None:
    model = make_model(scaling={"minReplicas": 1, "maxReplicas": 3})
    node = make_node(memory_bytes=GIB)
    found = verdicts(
        make_snapshot(models=(model,), slots=(replica(),), nodes=(node,), report=make_report(load=20))
    )
    assert short(found, ConditionType.PLACED) == (False, "InsufficientCapacity")
    assert short(found, ConditionType.READY) == (True, "Scaling")
    must = make_model(scaling={"minReplicas": 2, "maxReplicas": 3})
    found = verdicts(make_snapshot(models=(must,), slots=(replica(),), nodes=(node,)))
    assert short(found, ConditionType.READY) == (False, "InsufficientCapacity")


@pytest.mark.parametrize(
    ("met", "missed", "expected"),
    [(0, 0, (None, "NoTraffic")), (95, 5, (True, "WithinObjectives")), (94, 6, (False, "ObjectivesMissed"))],
)
def test_objectives_are_met_when_the_percentile_is(
    met: int, missed: int, expected: tuple[bool | None, str]
) -> None:
    window = make_window(ttft_met=met, ttft_missed=missed)
    found = verdicts(serving_snapshot(objectives={"ttftMilliseconds": 500}, window=window))
    assert short(found, ConditionType.OBJECTIVES_MET) == expected


def test_both_objectives_must_be_met_and_the_message_tells_both() -> None:
    window = make_window(ttft_met=100, tpot_met=1, tpot_missed=99)
    objectives = {"ttftMilliseconds": 500, "tpotMilliseconds": 50}
    verdict = verdicts(serving_snapshot(objectives=objectives, window=window))[ConditionType.OBJECTIVES_MET]
    assert verdict.status is False
    assert (
        verdict.message == "100% of 100 within TTFT 500 ms, 95% asked; 1% of 100 within TPOT 50 ms, 95% asked"
    )


def test_without_objectives_nothing_can_be_missed() -> None:
    assert short(verdicts(serving_snapshot()), ConditionType.OBJECTIVES_MET) == (True, "NoObjectives")


def test_a_missing_report_shows_and_does_not_make_the_model_unready() -> None:
    found = verdicts(make_snapshot(slots=(replica(),)))
    assert short(found, ConditionType.METRICS_FRESH) == (False, "ReportMissing")
    assert found[ConditionType.READY].status is True


def test_pools_are_ready_with_nodes_and_say_what_is_missing_without() -> None:
    def pool_verdict(**changes: Any) -> tuple[bool | None, str]:
        verdict = compute_plan(make_snapshot(**changes), 0.0).pools[0].verdicts[0]
        return verdict.status, verdict.reason

    assert pool_verdict() == (True, "CapacityReady")
    assert pool_verdict(nodes=()) == (False, "NoNodes")
    assert pool_verdict(rays=(Ray(answers=False),)) == (None, "CapacityAway")


def test_what_only_a_person_can_mend_is_stalled_and_what_time_mends_is_not() -> None:
    refused = verdicts(make_snapshot(models=(make_model(invalid_edit="spec.x: must be y"),)))
    assert short(refused, ConditionType.STALLED) == (True, "InvalidSpec")
    missing = ArtifactRefusal(reason="ModelNotFound", message="nothing there")
    assert short(verdicts(make_snapshot(models=(make_model(artifact=missing),))), ConditionType.STALLED) == (
        True,
        "ModelNotFound",
    )
    waiting = verdicts(make_snapshot(nodes=()))
    assert short(waiting, ConditionType.STALLED) == (False, "NotStalled")


def test_a_pool_whose_pods_do_not_come_up_says_so_in_kubernetes_words() -> None:
    snapshot = make_snapshot(pools=(make_pool("cpu"),))
    snapshot = replace(snapshot, troubles={"cpu": "pod x cannot be scheduled: 0/3 nodes are available"})
    (verdict,) = compute_plan(snapshot, 0.0).pools[0].verdicts
    assert (verdict.status, verdict.reason) == (False, "WorkersFailing")
    assert "0/3 nodes" in verdict.message
