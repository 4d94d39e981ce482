"""What is told of one plan after another: turns, each once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plinth.api.v1alpha1 import ResourceKey
from plinth.desired.story import Note, notes_between
from plinth.domain.fleet import (
    FleetPlan,
    ModelKey,
    ModelPlan,
    Needs,
    PoolPlan,
    SlotAction,
    SlotName,
    SlotPlace,
    SlotPlan,
    Verdict,
    WorkerGroupPlan,
)
from plinth.domain.traffic import RouteTable
from plinth.tests.domain.builders import make_spec

KEY = ModelKey("team-a", "smol")
ABOUT = ResourceKey("ModelDeployment", "team-a", "smol")


def slot(ordinal: int, action: SlotAction, reason: str = "one more of 2 wanted replicas") -> SlotPlan:
    return SlotPlan(
        name=SlotName(KEY, "abcd", ordinal),
        action=action,
        spec=None,
        needs=Needs(accelerators=1, memory_bytes=0),
        place=(SlotPlace("n"),),
        reason=reason,
    )


def verdict(kind: str, reason: str, *, status: bool | None, message: str = "so it is") -> Verdict:
    return Verdict(type=kind, status=status, reason=reason, message=message)


def model(*slots: SlotPlan, verdicts: tuple[Verdict, ...] = (), tensor_parallel: int = 1) -> ModelPlan:
    return ModelPlan(
        key=KEY,
        pool="h200",
        spec=make_spec(tensor_parallel=tensor_parallel),
        revision="abcd",
        desired_replicas=len(slots),
        slots=slots,
        reasons=(),
        verdicts=verdicts,
    )


def pool(workers: int = 0, *, remove: tuple[str, ...] = (), retired: tuple[str, ...] = ()) -> PoolPlan:
    group = WorkerGroupPlan(ray="plinth-system/h200-1", group="h200-8", workers=workers, remove=remove)
    return PoolPlan(
        name="h200",
        accelerator="H200",
        nodes=0,
        accelerators=0,
        accelerators_used=0,
        memory_bytes=0,
        memory_used_bytes=0,
        verdicts=(),
        workers=(group,),
        retired=retired,
    )


def fleet(*models: ModelPlan, pools: tuple[PoolPlan, ...] = ()) -> FleetPlan:
    return FleetPlan(
        pools=pools, models=models, orphans=(), routes=RouteTable(version=0, models=()), wake_at=None
    )


def told(before: FleetPlan, after: FleetPlan) -> list[tuple[str, str]]:
    return [(note.reason, note.message) for note in notes_between(before, after)]


def test_nothing_is_told_of_the_first_plan_nor_of_one_like_the_last() -> None:
    plan = fleet(model(slot(0, SlotAction.CREATE)), pools=(pool(2),))
    assert notes_between(None, plan) == []
    assert notes_between(plan, replace(plan)) == []


def test_each_turn_of_a_replica_is_told_with_its_reason() -> None:
    assert told(fleet(), fleet(model(slot(0, SlotAction.CREATE)))) == [
        ("ReplicaCreated", "team-a.smol.abcd.0: one more of 2 wanted replicas")
    ]
    kept = fleet(model(slot(0, SlotAction.KEEP)))
    assert told(fleet(model(slot(0, SlotAction.CREATE))), kept) == []
    draining = fleet(model(slot(0, SlotAction.DRAIN, "not wanted any more")))
    assert told(kept, draining) == [("ReplicaDraining", "team-a.smol.abcd.0: not wanted any more")]
    removed = fleet(model(slot(0, SlotAction.REMOVE, "it has ended its requests")))
    assert told(draining, removed) == [("ReplicaRemoved", "team-a.smol.abcd.0: it has ended its requests")]
    assert told(removed, fleet(model())) == []


def test_a_condition_is_told_when_it_flips_or_is_false_for_another_reason() -> None:
    unknown = fleet(model(verdicts=(verdict("Serving", "NotEvaluated", status=None),)))
    starting = fleet(model(verdicts=(verdict("Serving", "Starting", status=False),)))
    failed = fleet(model(verdicts=(verdict("Serving", "EngineFailed", status=False, message="no GPU"),)))
    serving = fleet(model(verdicts=(verdict("Serving", "Serving", status=True),)))
    scaled = fleet(model(verdicts=(verdict("Serving", "ScaledToZero", status=True),)))
    assert told(unknown, starting) == [("Starting", "Serving is False: so it is")]
    assert told(starting, failed) == [("EngineFailed", "Serving is False: no GPU")]
    assert told(failed, serving) == [("Serving", "Serving is True: so it is")]
    assert told(serving, scaled) == []
    assert told(serving, unknown) == []


def test_conditions_that_turn_together_for_one_reason_are_one_event() -> None:
    both = (verdict("Serving", "Starting", status=False), verdict("Ready", "Starting", status=False))
    assert told(fleet(model()), fleet(model(verdicts=both))) == [("Starting", "Serving is False: so it is")]


@pytest.mark.parametrize(
    ("status", "reason", "is_warning"),
    [
        (False, "EngineFailed", True),
        (False, "ShapeImpossible", True),
        (False, "Downloading", False),
        (False, "WorkersStarting", False),
        (True, "Serving", False),
    ],
)
def test_trouble_is_a_warning_and_progress_is_not(*, status: bool, reason: str, is_warning: bool) -> None:
    after = fleet(model(verdicts=(verdict("Serving", reason, status=status),)))
    (note,) = notes_between(fleet(model()), after)
    assert note == Note(
        about=ABOUT,
        reason=reason,
        action="Judge",
        message=f"Serving is {status}: so it is",
        is_warning=is_warning,
    )


def test_another_shape_is_told_though_the_condition_stays() -> None:
    planned = (verdict("Planned", "ShapeChosen", status=True, message="TP2 on h200"),)
    before = fleet(model(verdicts=(verdict("Planned", "ShapeChosen", status=True, message="TP1 on h200"),)))
    assert told(before, fleet(model(verdicts=planned, tensor_parallel=2))) == [("ShapeChosen", "TP2 on h200")]


def test_workers_asked_for_and_let_go_are_told_of_the_pool() -> None:
    where = "h200-8 of plinth-system/h200-1"
    assert told(fleet(pools=(pool(1),)), fleet(pools=(pool(3),))) == [
        ("WorkersAsked", f"{where}: 3 workers are asked for instead of 1")
    ]
    leaving = fleet(pools=(pool(2, remove=("pod-b",)),))
    assert told(fleet(pools=(pool(3),)), leaving) == [
        ("WorkersReleased", f"{where}: pod-b may go, nothing needs them")
    ]
    assert told(leaving, leaving) == []
    assert notes_between(fleet(pools=(pool(3),)), leaving)[0].about == ResourceKey("GPUPool", "", "h200")


def test_a_ray_cluster_that_goes_is_told_once() -> None:
    retired = fleet(pools=(pool(retired=("plinth-system/h200-0",)),))
    assert told(fleet(pools=(pool(),)), retired) == [
        ("RayClusterRetired", "plinth-system/h200-0 holds nothing any more and goes")
    ]
    assert told(retired, retired) == []
