"""Which pool and shape models get, and how many replicas: whole plans, from the snapshot to what is created."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from plinth.api.v1alpha1 import GPUPool
from plinth.domain.figures import Correction
from plinth.domain.fleet import (
    Artifact,
    FleetSnapshot,
    Model,
    ModelFormat,
    ModelKey,
    ModelPlan,
    Node,
    Slot,
    SlotAction,
)
from plinth.domain.planner import compute_plan
from plinth.domain.quantities import GIB
from plinth.tests.domain.builders import (
    QWEN_32B_CONFIG,
    make_model,
    make_node,
    make_pool,
    make_qwen_artifact,
    make_report,
    make_slot,
    make_snapshot,
)

KINDS = {"h200": ("H200", 140), "l40s": ("L40S", 45), "l4": ("L4", 22)}
SMALL: Mapping[str, object] = {
    **QWEN_32B_CONFIG,
    "num_hidden_layers": 28,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
"""Qwen2.5-7B's shape."""
ENCODER: Mapping[str, object] = {
    "model_type": "bert",
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "vocab_size": 30522,
}


def small() -> Artifact:
    return Artifact(format=ModelFormat.SAFETENSORS, config=SMALL, weights_bytes=14 * GIB)


def pool(kind: str, price: str = "0") -> GPUPool:
    return make_pool(kind, nodeSelector={"kind": kind}, costPerAcceleratorHour=price)


def nodes(kind: str, count: int = 4, each: int = 8) -> tuple[Node, ...]:
    name, memory = KINDS[kind]
    return tuple(
        make_node(
            f"{kind}-{number}",
            labels={"kind": kind},
            accelerators=each,
            accelerator=name,
            accelerator_memory_bytes=memory * GIB,
        )
        for number in range(count)
    )


def model(artifact: Artifact | None = None, *, name: str = "chat", **spec: Any) -> Model:
    return make_model(name, artifact=artifact or small(), **{"model": {"source": "hf://a/b"}, **spec})


def fleet(
    asked: Model, prices: Mapping[str, str], *, slots: tuple[Slot, ...] = (), load: int | None = None
) -> FleetSnapshot:
    return make_snapshot(
        models=(asked,),
        pools=tuple(pool(kind, price) for kind, price in prices.items()),
        nodes=tuple(node for kind in prices for node in nodes(kind)),
        slots=slots,
        report=None if load is None else make_report(load=load),
    )


def planned(snapshot: FleetSnapshot) -> ModelPlan:
    (plan,) = compute_plan(snapshot, 1000.0).models
    return plan


def running_as(plan: ModelPlan) -> tuple[Slot, ...]:
    """What the plan creates, as it runs later."""
    return tuple(
        replace(
            make_slot(each.name.revision, each.name.ordinal, spec=each.spec, node_id=each.node_id),
            needs=each.needs,
            place=each.place,
        )
        for each in plan.slots
        if each.action is SlotAction.CREATE
    )


def shape_of(plan: ModelPlan) -> str:
    assert plan.spec is not None, plan.reasons
    return str(plan.spec.shape)


SLOW = {"concurrency": 8, "ttftMilliseconds": 5000}
SHARP = {"concurrency": 8, "tpotMilliseconds": 20}
ONE = {"tensor": 1, "pipeline": 1}
PRICES = {"h200": "4", "l4": "0.7"}


def test_a_model_that_names_no_pool_goes_where_it_meets_its_goals_at_least_cost() -> None:
    assert planned(fleet(model(objectives=SLOW), PRICES)).pool == "h200"
    assert planned(fleet(model(objectives=SLOW), {"h200": "20", "l4": "0.7"})).pool == "l4"
    sharp = planned(fleet(model(objectives=SHARP), {"h200": "20", "l4": "0.7"}))
    assert sharp.prediction is not None
    assert sharp.prediction.speed is not None
    assert sharp.prediction.speed.tpot_microseconds <= 20_000


def test_the_plan_says_what_each_pool_offers() -> None:
    plan = planned(fleet(model(objectives=SLOW), {"h200": "20", "l4": "0.7"}))
    chosen, other = (
        next(each for each in plan.reasons if each.startswith(word)) for word in ("pool", "not pool")
    )
    assert chosen.startswith("pool l4 (the best offer): TP1, ")
    assert other.startswith("not pool h200: TP1, ")
    assert chosen.endswith(" for a million tokens")


def test_a_pool_that_is_named_is_used_whatever_it_costs_and_nothing_is_said_of_others() -> None:
    plan = planned(fleet(model(objectives=SLOW, pool="h200"), {"h200": "20", "l4": "0.7"}))
    assert plan.pool == "h200"
    assert not any(each.startswith(("pool ", "not pool ")) for each in plan.reasons)


def test_what_runs_stays_on_its_pool_for_a_small_change_of_price_and_moves_for_a_large_one() -> None:
    asked = model(objectives=SLOW)
    first = planned(fleet(asked, PRICES))
    assert first.pool == "h200"
    costs = {kind: planned(fleet(asked, {kind: price})) for kind, price in PRICES.items()}
    here, there = (float(costs[kind].prediction.computed.cost_per_million_tokens) for kind in PRICES)  # type: ignore[union-attr]
    even = 4 * there / here
    dearer = {"h200": f"{even * 1.2:.6f}", "l4": "0.7"}
    assert planned(fleet(asked, dearer)).pool == "l4"
    stays = planned(fleet(asked, dearer, slots=running_as(first)))
    assert (stays.pool, [each.action for each in stays.slots]) == ("h200", [SlotAction.KEEP])
    much_dearer = {"h200": f"{even * 1.4:.6f}", "l4": "0.7"}
    assert planned(fleet(asked, much_dearer, slots=running_as(first))).pool == "l4"
    slower = replace(asked, correction=Correction(thousandths=900, stretches=8))
    assert planned(fleet(slower, much_dearer, slots=running_as(first))).pool == "h200"


def test_a_model_that_fits_one_pool_only_goes_there_and_the_other_offers_nothing() -> None:
    plan = planned(fleet(model(make_qwen_artifact(), parallelism=ONE), {"h200": "9", "l4": "0.1"}))
    assert plan.pool == "h200"
    assert not any(each.startswith("not pool") for each in plan.reasons)


def test_a_pool_that_is_full_gives_way_to_the_next_for_models_that_come_in_one_pass_too() -> None:
    """Sixteen replicas of two accelerators on 8 x H200 and 32 x L40S: four there, then the others."""
    many = tuple(
        replace(
            model(make_qwen_artifact(), name=f"m{number:02}", parallelism={"tensor": 2}), first_seen=number
        )
        for number in range(8)
    )
    prices = {"h200": "1", "l40s": "2"}
    snapshot = make_snapshot(
        models=many,
        pools=tuple(pool(kind, price) for kind, price in prices.items()),
        nodes=(*nodes("h200", 1), *nodes("l40s", 4)),
    )
    plans = compute_plan(snapshot, 1000.0).models
    assert [plan.pool for plan in plans] == ["h200"] * 4 + ["l40s"] * 4
    assert [len(plan.slots) for plan in plans] == [1] * 8
    assert any(each.endswith("full at present") for each in plans[-1].reasons)
    urgent = replace(
        model(make_qwen_artifact(), name="z", parallelism={"tensor": 2}, priority=9), first_seen=99
    )
    again = {
        plan.key.name: plan.pool
        for plan in compute_plan(replace(snapshot, models=(*many, urgent)), 1.0).models
    }
    assert (again["z"], again["m03"]) == ("h200", "l40s")


def test_what_runs_waits_for_room_before_it_moves_to_a_cheaper_pool() -> None:
    asked = model(objectives=SLOW)
    first = planned(fleet(asked, {"h200": "4"}))
    prices = {"h200": "90", "l4": "0.7"}
    full = tuple(
        make_slot(
            "ffffffff", number, model=ModelKey("default", "other"), node_id=f"l4-{number}", accelerators=8
        )
        for number in range(4)
    )
    waits = planned(fleet(asked, prices, slots=(*running_as(first), *full)))
    assert (waits.pool, [each.action for each in waits.slots]) == ("h200", [SlotAction.KEEP])
    assert any("until a better one has room" in each for each in waits.reasons)
    assert planned(fleet(asked, prices, slots=(*running_as(first), *full[1:]))).pool == "l4"


def test_a_light_load_takes_few_accelerators_and_a_heavy_one_more() -> None:
    bounds = {"minReplicas": 1, "maxReplicas": 16}
    taken = []
    for load in (1, 30, 60, 120, 240):
        plan = planned(fleet(model(scaling=bounds, objectives={"concurrency": 32}), {"h200": "4"}, load=load))
        taken.append(len(plan.slots))
    assert taken == [1, 2, 3, 5, 10]


def test_a_small_model_gets_replicas_and_a_large_one_is_split_under_the_same_load() -> None:
    heavy = {"concurrency": 40, "contextTokens": 8192}
    bounds = {"minReplicas": 1, "maxReplicas": 8}
    plans = [
        planned(fleet(model(artifact, objectives=heavy, scaling=bounds), {"h200": "4"}, load=100))
        for artifact in (small(), make_qwen_artifact())
    ]
    assert [shape_of(plan) for plan in plans] == ["TP1", "TP2"]
    assert [len(plan.slots) for plan in plans] == [4, 4]


def test_a_heavier_objective_is_a_larger_shape_and_a_lighter_one_a_smaller() -> None:
    shapes = [
        shape_of(planned(fleet(model(make_qwen_artifact(), objectives=asked), {"h200": "4"})))
        for asked in (
            {"concurrency": 4},
            {"concurrency": 80, "contextTokens": 8192},
            {"concurrency": 100, "contextTokens": 8192},
        )
    ]
    assert shapes == ["TP1", "TP2", "TP4"]


def test_replicas_carry_no_more_requests_than_they_serve_within_their_goals() -> None:
    """A goal that is missed for 64 users at once and met for fewer asks for more replicas, of the same shape."""
    bounds = {"minReplicas": 1, "maxReplicas": 32}
    loose, sharp = (
        planned(
            fleet(
                model(objectives={"concurrency": 64, **goal}, scaling=bounds, parallelism=ONE),
                {"h200": "4"},
                load=60,
            )
        )
        for goal in ({}, {"tpotMilliseconds": 6})
    )
    assert loose.spec == sharp.spec
    assert len(sharp.slots) > len(loose.slots)
    missed = next(each for each in sharp.reasons if each.startswith("no shape here meets the goals"))
    assert missed.endswith(" users at once would be within them")


def test_a_goal_that_no_load_meets_does_not_multiply_replicas() -> None:
    bounds = {"minReplicas": 1, "maxReplicas": 32}
    hopeless = model(objectives={"concurrency": 64, "tpotMilliseconds": 1}, scaling=bounds)
    plan = planned(fleet(hopeless, {"l4": "0.7"}, load=40))
    assert len(plan.slots) == 1
    assert any(each.endswith("nor would a single user") for each in plan.reasons)


@pytest.mark.parametrize("task", ["Embed", "Rerank"])
def test_a_model_that_generates_nothing_takes_one_accelerator_and_is_held_against_its_whole_answer(
    task: str,
) -> None:
    encoder = Artifact(format=ModelFormat.SAFETENSORS, config=ENCODER, weights_bytes=GIB // 2)
    asked = model(
        encoder,
        model={"source": "hf://a/b", "task": task},
        objectives={"concurrency": 64, "contextTokens": 512, "ttftMilliseconds": 2000},
        scaling={"minReplicas": 1, "maxReplicas": 4},
    )
    plan = planned(fleet(asked, {"h200": "40", "l4": "0.7"}, load=100))
    assert (plan.pool, shape_of(plan), len(plan.slots)) == ("l4", "TP1", 2)
    assert plan.prediction is not None
    assert plan.prediction.memory.kv_tokens == 0
