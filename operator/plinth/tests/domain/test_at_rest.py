"""Models at rest are not planned anew, and no plan can tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.allotment import PlaceMemory
from plinth.domain.at_rest import Rest
from plinth.domain.figures import Correction
from plinth.domain.fleet import (
    FailureRecord,
    FleetPlan,
    FleetSnapshot,
    LoadWindow,
    Model,
    ModelKey,
    ModelPlan,
    Node,
)
from plinth.domain.planner import compute_plan
from plinth.domain.quantities import GIB
from plinth.domain.targets import TargetMemory
from plinth.domain.traffic import ReplicaLoad, ReplicaState
from plinth.tests.domain.builders import make_figures, make_model, make_node, make_qwen_artifact, make_report
from plinth.tests.domain.fleet_simulator import Fleet
from plinth.tests.searching import examples

FIRST, SECOND, THIRD = (ModelKey("default", name) for name in ("first", "second", "third"))
KEYS = (FIRST, SECOND, THIRD)


@dataclass
class Planner:
    """Plans with what it remembers, and without."""

    targets: TargetMemory = field(default_factory=TargetMemory)
    places: PlaceMemory = field(default_factory=PlaceMemory)
    rest: Rest = field(default_factory=Rest)

    def plan(self, snapshot: FleetSnapshot, now: float) -> FleetPlan:
        plan = compute_plan(snapshot, now, targets=self.targets, places=self.places, rest=self.rest)
        assert plan == compute_plan(snapshot, now)
        return plan


def running(goals: Mapping[str, int] | None = None, **scaling: int) -> Fleet:
    """Three models that serve, on two nodes."""
    models = {
        key: make_model(key.name, first_seen=float(number), scaling=scaling, objectives=goals or {})
        for number, key in enumerate(KEYS)
    }
    fleet = Fleet(models, nodes=(make_node("node-1"), make_node("node-2"))).run(8)
    assert {name.model for name in fleet.serving()} == set(KEYS)
    return fleet


def planned_of(plan: FleetPlan, key: ModelKey) -> ModelPlan:
    return next(model for model in plan.models if model.key == key)


def planned_anew(before: FleetPlan, after: FleetPlan) -> set[ModelKey]:
    """Models whose plan is another object."""
    return {new.key for old, new in zip(before.models, after.models, strict=True) if old is not new}


def test_of_models_at_rest_nothing_is_planned_anew() -> None:
    fleet, planner = running(), Planner()
    first = planner.plan(fleet.snapshot(), 8.0)
    fleet.step()
    assert planned_anew(first, planner.plan(fleet.snapshot(), 9.0)) == set()


def test_what_was_edited_is_planned_anew_and_nothing_else() -> None:
    fleet, planner = running(), Planner()
    first = planner.plan(fleet.snapshot(), 8.0)
    fleet.models[SECOND] = replace(
        fleet.models[SECOND], resource=make_model("second", objectives={"concurrency": 3}).resource
    )
    assert planned_anew(first, planner.plan(fleet.snapshot(), 9.0)) == {SECOND}


def test_a_model_whose_replica_the_gateway_lost_is_planned_anew() -> None:
    fleet, planner = running(), Planner()
    first = planner.plan(fleet.snapshot(), 8.0)
    snapshot = fleet.snapshot()
    assert snapshot.report is not None
    lost = next(slot.name for slot in snapshot.slots if slot.name.model == THIRD)
    dead = {str(lost): ReplicaLoad(in_flight=0, state=ReplicaState.DEAD, detail="reset")}
    report = replace(snapshot.report, replicas={**snapshot.report.replicas, **dead})
    second = planner.plan(replace(snapshot, report=report), 9.0)
    assert planned_anew(first, second) == {THIRD}


def changed(snapshot: FleetSnapshot, **changes: Any) -> FleetSnapshot:
    """With the first model changed."""
    models = tuple(replace(each, **changes) if each.key == FIRST else each for each in snapshot.models)
    return replace(snapshot, models=models)


def with_figures(snapshot: FleetSnapshot) -> FleetSnapshot:
    slots = tuple(
        replace(slot, figures=make_figures()) if slot.name.model == FIRST else slot for slot in snapshot.slots
    )
    return replace(snapshot, slots=slots)


def with_an_older_one_of_its_name(snapshot: FleetSnapshot) -> FleetSnapshot:
    older = make_model("older", first_seen=-1.0, served_name=FIRST.name)
    return replace(snapshot, models=(*snapshot.models, older))


CHANGES: Mapping[str, Callable[[FleetSnapshot], FleetSnapshot]] = {
    "its engine told its figures": with_figures,
    "its name is taken": with_an_older_one_of_its_name,
    "its files are others": lambda snapshot: changed(snapshot, artifact=make_qwen_artifact()),
    "an edit was refused": lambda snapshot: changed(snapshot, invalid_edit="spec.model: what is this?"),
    "requests missed its goals": lambda snapshot: changed(snapshot, window=LoadWindow(ttft_missed=7)),
    "it was slower than planned": lambda snapshot: changed(snapshot, correction=Correction(thousandths=700)),
    "it failed": lambda snapshot: changed(
        snapshot, failure=FailureRecord(revision="abc", count=1, last_at=0.0, message="out of memory")
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_else_changes_of_a_model_it_is_planned_anew(what: str) -> None:
    fleet, planner = running(goals={"ttftMilliseconds": 500}), Planner()
    snapshot = fleet.snapshot()
    first = {model.key: model for model in planner.plan(snapshot, 8.0).models}
    second = planner.plan(CHANGES[what](snapshot), 9.0)
    assert planned_of(second, FIRST) is not first[FIRST]
    assert planned_of(second, SECOND) is first[SECOND]


def test_what_a_higher_priority_displaces_is_planned_anew() -> None:
    fleet, planner = running(), Planner()
    fleet.nodes = small_nodes("node-1", "node-2")
    planner.plan(fleet.snapshot(), 8.0)
    urgent = make_model("urgent", first_seen=9.0, priority=9, scaling={"minReplicas": 2, "maxReplicas": 2})
    fleet.models[urgent.key] = urgent
    snapshot = fleet.snapshot()
    plan = planner.plan(snapshot, 9.0)
    assert any("gives way" in slot.reason for model in plan.models for slot in model.slots)


def test_a_model_whose_requests_another_takes_is_planned_anew() -> None:
    fleet, planner = running(), Planner()
    first = planner.plan(fleet.snapshot(), 8.0)
    canary = make_model("second", first_seen=1.0, traffic={"of": "first", "percent": 5})
    fleet.models[SECOND] = replace(fleet.models[SECOND], resource=canary.resource)
    second = planner.plan(fleet.snapshot(), 9.0)
    assert planned_anew(first, second) == {FIRST, SECOND}
    (route,) = (each for each in second.routes.models if each.model == str(FIRST))
    assert [share.model for share in route.shares] == [str(SECOND)]


def test_a_load_that_the_least_replicas_carry_disturbs_nobody() -> None:
    fleet, planner = running(minReplicas=2, maxReplicas=4), Planner()
    first = planner.plan(fleet.snapshot(), 8.0)
    snapshot = fleet.snapshot()
    assert snapshot.report is not None

    report = snapshot.report

    def under(load: int) -> FleetSnapshot:
        loads = {**report.models, **make_report(load=load, model=str(FIRST)).models}
        return replace(snapshot, report=replace(report, models=loads))

    assert planned_anew(first, planner.plan(under(12), 9.0)) == set()
    more = planner.plan(under(13), 10.0)
    assert planned_anew(first, more) == {FIRST}
    assert planned_of(more, FIRST).desired_replicas == 3


def test_when_nobody_reports_or_a_node_comes_all_are_planned_anew() -> None:
    fleet, planner = running(), Planner()
    first = planner.plan(fleet.snapshot(), 8.0)
    silent = replace(fleet.snapshot(), report=None)
    second = planner.plan(silent, 9.0)
    assert planned_anew(first, second) == set(KEYS)
    third = planner.plan(silent, 10.0)
    assert planned_anew(second, third) == set()
    more = replace(silent, nodes=(*silent.nodes, make_node("node-3")))
    assert planned_anew(third, planner.plan(more, 11.0)) == set(KEYS)


def test_a_model_that_starts_waits_or_drains_is_planned_anew_on_every_pass() -> None:
    fleet, planner = running(), Planner()
    fleet.start_seconds = lambda _: 50
    fleet.models[FIRST] = replace(
        fleet.models[FIRST],
        resource=make_model("first", scaling={"minReplicas": 2, "maxReplicas": 2}).resource,
    )
    fleet.step()
    first = planner.plan(fleet.snapshot(), 9.0)
    assert planned_anew(first, planner.plan(fleet.snapshot(), 10.0)) == {FIRST}


def small_nodes(*names: str) -> tuple[Node, ...]:
    """Each for two replicas, so that models are in each other's way."""
    return tuple(make_node(name, memory_bytes=2 * GIB) for name in names)


def edited(key: ModelKey, chance: Random) -> Model:
    least = chance.choice((0, 1, 2))
    return make_model(
        key.name,
        first_seen=float(KEYS.index(key)),
        priority=chance.choice((0, 5)),
        objectives={"concurrency": chance.choice((4, 8)), "ttftMilliseconds": chance.choice((None, 900))},
        scaling={
            "minReplicas": least,
            "maxReplicas": max(1, least + chance.choice((0, 2))),
            "quietSeconds": 5,
        },
        aliases=chance.choice(([], [], ["best"])),
        fallbacks=chance.choice(([], [], ["second"])),
        traffic=chance.choice((None, None, {"of": "first", "percent": chance.choice((5, 60))}))
        if key != FIRST
        else None,
    )


def shake(fleet: Fleet, chance: Random) -> None:
    """Something happens to somebody; mostly nothing."""
    key, serving = chance.choice(KEYS), fleet.serving()
    match chance.choice(("load", "load", "death", "edit", "deletion", "silence", "nodes", *["nothing"] * 9)):
        case "load":
            fleet.load[key] = chance.choice((0, 3, 9, 30))
        case "death" if serving:
            fleet.kill(chance.choice(serving))
        case "edit":
            fleet.models[key] = edited(key, chance)
        case "deletion":
            fleet.models.pop(key, None)
        case "silence":
            fleet.reporting = not fleet.reporting
        case "nodes":
            fleet.nodes = chance.choice(
                (small_nodes("a", "b"), small_nodes("a", "b", "c"), small_nodes("b", "c"))
            )


@given(st.integers(0, 2**32))
@examples(15)
def test_whatever_happens_what_is_remembered_makes_no_difference(seed: int) -> None:
    chance, planner = Random(seed), Planner()  # noqa: S311 - no secret
    fleet = Fleet({key: edited(key, chance) for key in KEYS}, nodes=small_nodes("a", "b"))
    for _ in range(60):
        shake(fleet, chance)
        fleet.step()
        planner.plan(fleet.snapshot(), float(fleet.now))
