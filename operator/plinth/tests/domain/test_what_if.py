"""What a fleet would make of an edit: told by plans that are carried out to their end, and against what was under way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from plinth.api.v1alpha1 import ModelDeployment
from plinth.domain.fleet import FleetSnapshot, Model, ModelKey, ModelPlan, NodeState, SlotAction, SlotPhase
from plinth.domain.planner import compute_plan
from plinth.domain.settling import carry_out, settle
from plinth.domain.what_if import Edit, WhatIf, apply_edit, compute_what_if, moved_to
from plinth.tests.domain.builders import (
    make_model,
    make_node,
    make_pool,
    make_qwen_artifact,
    make_resource,
    make_snapshot,
    make_window,
)

NOW = 1000.0
CHAT, OTHER = ModelKey("default", "chat"), ModelKey("default", "other")


def make_qwen(name: str = "chat", *, replicas: int = 1, **spec: Any) -> Model:
    """A model that takes one accelerator a replica."""
    scaling = {"minReplicas": replicas, "maxReplicas": max(replicas, 1)}
    return make_model(
        name,
        artifact=make_qwen_artifact(),
        source=f"hf://org/{name}",
        scaling=scaling,
        objectives={"concurrency": 1, "contextTokens": 2048},
        **spec,
    )


def live(*models: Model, accelerators: int = 2, **changes: Any) -> FleetSnapshot:
    """A fleet in which these models have what they can get."""
    nodes = (make_node("a", accelerators=accelerators),)
    return settle(replace(make_snapshot(models=models, nodes=nodes), **changes), NOW).snapshot


def ask(snapshot: FleetSnapshot, *models: Model, **edit: Any) -> WhatIf:
    artifacts = {model.key: model.artifact for model in models if model.artifact is not None}
    resources = tuple(model.resource for model in models)
    return compute_what_if(snapshot, Edit(models=resources, artifacts=artifacts, **edit), NOW)


def plan_for(found: WhatIf, key: ModelKey) -> ModelPlan:
    return next(each for each in found.after.models if each.key == key)


def placed(plan: ModelPlan) -> tuple[bool | None, str]:
    return next((each.status, each.message) for each in plan.verdicts if each.type == "Placed")


def changes(found: WhatIf) -> list[tuple[str, str]]:
    return [(each.action.value, str(each.name.model)) for each in found.changes]


def test_a_fleet_at_rest_has_all_that_it_can_give_and_a_plan_that_changes_nothing() -> None:
    settled = settle(make_snapshot(models=(make_qwen(replicas=2),), nodes=(make_node(accelerators=2),)), NOW)
    assert settled.at_rest
    assert [turn.action for turn in settled.turns] == [SlotAction.CREATE] * 2
    assert {slot.phase for slot in settled.snapshot.slots} == {SlotPhase.READY}
    assert carry_out(settled.plan, settled.snapshot, NOW) == settled.snapshot


def test_a_worker_that_would_be_brought_up_is_there_once_the_fleet_rests() -> None:
    node = replace(make_node(accelerators=1), state=NodeState.POTENTIAL)
    settled = settle(make_snapshot(models=(make_qwen(),), nodes=(node,)), NOW)
    assert [turn.action for turn in settled.turns] == [SlotAction.AWAIT]
    assert [each.state for each in settled.snapshot.nodes] == [NodeState.PRESENT]
    assert placed(settled.plan.models[0])[0] is True


def test_a_new_model_takes_what_is_free_and_nobody_else_changes() -> None:
    found = ask(live(make_qwen()), make_qwen("other"))
    assert changes(found) == [("Create", "default/other")]
    assert placed(plan_for(found, OTHER))[0] is True
    assert plan_for(found, CHAT) == found.before.models[0]


def test_what_has_no_room_is_told_who_holds_it_and_what_would_free_it() -> None:
    found = ask(live(make_qwen(replicas=2)), make_qwen("other"))
    status, message = placed(plan_for(found, OTHER))
    assert status is False
    assert "held by default/chat (2 accelerators)" in message
    assert "one would fit without default.chat." in message
    assert changes(found) == []


def test_who_would_be_displaced_is_told_and_the_newcomer_has_its_place_in_the_end() -> None:
    found = ask(live(make_qwen(replicas=2)), make_qwen("other", priority=100))
    assert changes(found) == [("Drain", "default/chat"), ("Create", "default/other")]
    assert placed(plan_for(found, OTHER))[0] is True
    assert placed(plan_for(found, CHAT))[0] is False
    assert "other" in found.changes[0].reason


def test_an_edit_of_a_model_is_a_rollout_to_its_end() -> None:
    found = ask(live(make_qwen(replicas=2)), make_qwen(replicas=2, engine={"args": {"seed": "7"}}))
    assert sorted(changes(found)) == [*[("Create", "default/chat")] * 2, *[("Drain", "default/chat")] * 2]
    assert found.at_rest
    assert placed(plan_for(found, CHAT))[0] is True
    assert {slot.name.revision for slot in plan_for(found, CHAT).slots} == {plan_for(found, CHAT).revision}


def test_what_was_under_way_is_no_change_of_the_edit() -> None:
    starting = make_snapshot(models=(make_qwen(replicas=2),), nodes=(make_node(accelerators=3),))
    assert changes(ask(starting, make_qwen("other"))) == [("Create", "default/other")]


def test_the_load_that_a_model_has_counts_for_its_edit_too() -> None:
    busy = replace(make_qwen(), window=make_window((NOW, 5)), answered_revision="aaaaaaaa")
    known = apply_edit(make_snapshot(models=(busy,)), _edit(make_qwen(replicas=2)), NOW).models[0]
    assert (known.window, known.answered_revision) == (busy.window, "aaaaaaaa")
    assert known.resource.spec.scaling.min_replicas == 2


def test_an_edit_mends_an_invalid_one_and_a_model_that_could_not_be_read() -> None:
    broken = replace(make_qwen(), invalid_edit="spec.scaling: wrong")
    snapshot = replace(make_snapshot(models=(broken,)), unreadable=frozenset({OTHER}))
    edited = apply_edit(snapshot, _edit(make_qwen(), make_qwen("other")), NOW)
    assert [model.invalid_edit for model in edited.models] == ["", ""]
    assert edited.unreadable == frozenset()


def test_the_snapshot_that_was_asked_about_is_left_as_it_is() -> None:
    snapshot = live(make_qwen())
    before = compute_plan(snapshot, NOW)
    ask(snapshot, make_qwen("other", priority=100))
    assert compute_plan(snapshot, NOW) == before


@pytest.mark.parametrize(("share", "placed_there"), [("90", True), ("20", False)])
def test_an_edit_of_a_pool_holds_for_the_models_that_come_with_it(share: str, *, placed_there: bool) -> None:
    snapshot = replace(live(), pools=(make_pool("h200", memoryUtilizationPercent=50),))
    pool = make_pool("h200", memoryUtilizationPercent=int(share))
    found = ask(snapshot, make_qwen("other"), pools=(pool,))
    assert (plan_for(found, OTHER).spec is not None) is placed_there
    assert [each.spec.memory_utilization_percent for each in found.pools] == [int(share)]


def test_a_pool_can_be_supposed_for_a_model_that_names_another() -> None:
    resource = make_resource(pool="a")
    assert moved_to(resource, None) is resource
    assert moved_to(resource, "b").spec.pool == "b"


def _edit(*models: Model) -> Edit:
    resources: tuple[ModelDeployment, ...] = tuple(model.resource for model in models)
    return Edit(models=resources, artifacts={model.key: make_qwen_artifact() for model in models})
