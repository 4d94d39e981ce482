"""What a route says of its model beside where the replicas are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from plinth.domain.fleet import Engine, FleetSnapshot, Slot, SlotPhase
from plinth.domain.planner import compute_plan
from plinth.domain.traffic import ModelRoute, Strategy
from plinth.tests.domain.builders import (
    make_figures,
    make_model,
    make_node,
    make_qwen_artifact,
    make_report,
    make_slot,
    make_snapshot,
)

FRESH = compute_plan(make_snapshot(), 0.0).models[0]


def route_of(snapshot: FleetSnapshot) -> ModelRoute:
    (route,) = compute_plan(snapshot, 1000.0).routes.models
    return route


def replica(revision: str = FRESH.revision, ordinal: int = 0, **changes: Any) -> Slot:
    needs = FRESH.slots[0].needs
    return make_slot(revision, ordinal, memory_bytes=needs.memory_bytes, **({"spec": FRESH.spec} | changes))


def test_what_a_spec_says_of_requests_is_in_the_route() -> None:
    model = make_model(
        aliases=["chat@v2"],
        fallbacks=["small"],
        routing={"strategy": "FastestFirst", "sessionHeader": "X-Session-Id"},
    )
    route = route_of(make_snapshot(models=(model,)))
    assert (route.aliases, route.fallbacks) == (("chat@v2",), ("small",))
    assert (route.strategy, route.session_header) == (Strategy.FASTEST_FIRST, "x-session-id")


def test_every_strategy_that_a_spec_may_name_is_one_of_the_gateways() -> None:
    for strategy in Strategy:
        model = make_model(routing={"strategy": strategy.value})
        assert route_of(make_snapshot(models=(model,))).strategy is strategy


def test_a_replica_is_told_with_its_kind_and_what_its_cache_holds() -> None:
    snapshot = make_snapshot(slots=(replica(figures=make_figures()),), report=make_report())
    (found,) = route_of(snapshot).replicas
    assert found.kind == "CPU TP1 LlamaCpp of 4 threads"
    assert found.kv_tokens == make_figures().memory.kv_tokens


def test_a_replica_whose_accelerator_fails_is_told_with_its_fault() -> None:
    slots = (replica(fault="GPU-333 has failing memory"), replica(ordinal=1))
    found = route_of(make_snapshot(slots=slots, report=make_report())).replicas
    assert [each.fault for each in found] == ["GPU-333 has failing memory", ""]


def test_a_replica_on_accelerators_is_of_their_kind_and_its_shape() -> None:
    model = make_model(artifact=make_qwen_artifact(), source="hf://org/qwen", parallelism={"tensor": 2})
    node = make_node(accelerators=8)
    empty = make_snapshot(models=(model,), nodes=(node,))
    (planned,) = compute_plan(empty, 0.0).models
    ready = make_slot(planned.revision, spec=planned.spec, accelerators=2)
    (found,) = route_of(replace(empty, slots=(ready,))).replicas
    assert (found.kind, found.kv_tokens) == ("H200 TP2 VLLM", 0)


def test_the_revision_tells_of_all_that_answer_now() -> None:
    old, new, starting = replica("0ld0ld00"), replica(), replica("5tart1ng", phase=SlotPhase.LOADING)
    assert route_of(make_snapshot(slots=(new, starting))).revision == FRESH.revision
    both = make_snapshot(models=(make_model(scaling={"minReplicas": 2, "maxReplicas": 2}),), slots=(old, new))
    assert route_of(both).revision == "+".join(sorted(("0ld0ld00", FRESH.revision)))


def test_a_sleeping_model_tells_the_revision_that_will_wake() -> None:
    assert route_of(make_snapshot()).revision == FRESH.revision


def test_each_replica_tells_its_engine_while_those_of_two_serve() -> None:
    assert FRESH.spec is not None
    other = replica("0ld0ld00", spec=replace(FRESH.spec, engine=Engine.VLLM))
    two = make_model(scaling={"minReplicas": 2, "maxReplicas": 2})
    route = route_of(make_snapshot(models=(two,), slots=(other, replica())))
    assert {each.slot.split(".")[2]: each.engine for each in route.replicas} == {
        "0ld0ld00": "VLLM",
        FRESH.revision: "LlamaCpp",
    }


def test_an_adapter_is_offered_once_every_replica_that_answers_knows_it() -> None:
    law = [{"name": "law", "source": "hf://org/law"}, {"name": "med", "source": "hf://org/med"}]
    model = make_model(
        artifact=make_qwen_artifact(), source="hf://org/qwen", adapters=law, scaling={"maxReplicas": 2}
    )
    empty = make_snapshot(models=(model,), nodes=(make_node(accelerators=8),))
    (planned,) = compute_plan(empty, 0.0).models
    assert planned.spec is not None
    assert route_of(empty).adapters == ("chat:law", "chat:med")
    old = make_slot("0ld0ld00", spec=replace(planned.spec, adapters={"law": "hf://org/law"}), accelerators=1)
    assert route_of(replace(empty, slots=(old,))).adapters == ("chat:law",)
    new = make_slot(planned.revision, spec=planned.spec, accelerators=1)
    assert route_of(replace(empty, slots=(new,))).adapters == ("chat:law", "chat:med")
