"""The accelerators of a replica, from the plan by way of Serve's config back to the next plan, and into the status."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.api.v1alpha1 import ConditionType
from plinth.desired.plan_document import find_obstacle, make_plan_document
from plinth.desired.serve_config import ServeSettings, serve_config
from plinth.desired.serve_details import read_slots
from plinth.desired.statuses import look, model_status
from plinth.domain.fleet import (
    Artifact,
    FleetPlan,
    FleetSnapshot,
    Model,
    ModelFormat,
    Needs,
    Node,
    NodeState,
    SeenDevice,
    Slot,
    SlotAction,
    SlotPhase,
    SlotPlace,
)
from plinth.domain.planner import compute_plan
from plinth.domain.quantities import GIB
from plinth.tests.domain.builders import (
    make_model,
    make_node,
    make_pool,
    make_qwen_artifact,
    make_slot,
    make_snapshot,
)
from plinth.tests.searching import examples

SETTINGS = ServeSettings(
    secret_file="/state/secret", cache_dir="/cache", http_host="127.0.0.1", http_port=8000
)
LLAMA_405B = {
    "model_type": "llama",
    "num_hidden_layers": 126,
    "hidden_size": 16384,
    "intermediate_size": 53248,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "vocab_size": 128256,
}
H100_BYTES = round(79.2 * GIB)


def make_pairs(node_id: str = "a", *, accelerators: int = 4, **changes: Any) -> Node:
    """A node whose accelerators are linked two by two."""
    return make_node(
        node_id, accelerators=accelerators, labels={"plinth.dev/link-domain-size": "2"}, **changes
    )


def make_qwen(name: str = "chat", replicas: int = 2, **parallelism: int) -> Model:
    return make_model(
        name,
        artifact=make_qwen_artifact(),
        source="hf://a/b",
        parallelism=parallelism or {"tensor": 2},
        scaling={"minReplicas": replicas, "maxReplicas": replicas},
    )


def make_405b() -> Model:
    artifact = Artifact(format=ModelFormat.SAFETENSORS, config=LLAMA_405B, weights_bytes=756 * GIB)
    return make_model("huge", artifact=artifact, source="hf://a/huge")


def make_h100s(*names: str) -> tuple[Node, ...]:
    return tuple(
        make_node(name, accelerators=8, accelerator="H100", accelerator_memory_bytes=H100_BYTES)
        for name in names
    )


def make_fleet(models: Iterable[Model], nodes: Iterable[Node], slots: Iterable[Slot] = ()) -> FleetSnapshot:
    return make_snapshot(models=tuple(models), nodes=tuple(nodes), slots=tuple(slots))


def deploy(plan: FleetPlan) -> list[Slot]:
    """The slots that a restarted operator finds at Ray, once the plan's replicas serve."""
    config = json.loads(json.dumps(serve_config(plan, SETTINGS)))
    applications = {each["name"]: {"deployed_app_config": each} for each in config["applications"]}
    found = (each.slot for each in read_slots({"applications": applications}))
    return [replace(slot, phase=SlotPhase.READY, running_on=slot.node_id) for slot in found]


def places(plan: FleetPlan) -> list[tuple[SlotPlace, ...]]:
    return [slot.place for model in plan.models for slot in model.slots]


def on(node_id: str, *accelerators: int) -> tuple[SlotPlace, ...]:
    return (SlotPlace(node_id, accelerators),)


def test_replicas_of_two_get_the_two_linked_pairs_of_a_node_by_index() -> None:
    plan = compute_plan(make_fleet([make_qwen()], [make_pairs()]), 0.0)
    assert sorted(places(plan)) == [on("a", 0, 1), on("a", 2, 3)]
    told = [each["args"]["accelerators"] for each in serve_config(plan, SETTINGS)["applications"]]
    assert sorted(told) == [[[0, 1]], [[2, 3]]]


def test_a_restarted_operator_reads_back_who_holds_which_accelerators_and_leaves_them() -> None:
    models, nodes = [make_qwen()], [make_pairs()]
    before = compute_plan(make_fleet(models, nodes), 0.0)
    after = compute_plan(make_fleet(models, nodes, deploy(before)), 1.0)
    assert places(after) == places(before)
    assert {slot.action for slot in after.models[0].slots} == {SlotAction.KEEP}


def test_what_comes_later_gets_the_pair_that_nobody_was_told() -> None:
    nodes = [make_pairs()]
    slot = make_slot(node_id="a", indices=(0, 1), spec=None, readable=False)
    plan = compute_plan(make_fleet([make_qwen("later", 1)], nodes, [slot]), 0.0)
    assert places(plan)[0] == on("a", 2, 3)


def test_a_link_domain_stated_by_the_pool_is_the_one_that_replicas_are_placed_in() -> None:
    figures = {"name": "H200", "link": {"domainSize": 2}}
    snapshot = make_fleet(
        [make_qwen("one", 1, tensor=1), make_qwen("two", 1)], [make_node("a", accelerators=4)]
    )
    plan = compute_plan(replace(snapshot, pools=(make_pool(acceleratorTypes=[figures]),)), 0.0)
    assert sorted(places(plan)) == [on("a", 0, 1), on("a", 2)]


def test_a_model_is_not_split_further_than_the_label_of_every_node_says_that_links_reach() -> None:
    heavy = make_model(
        artifact=make_qwen_artifact(),
        source="hf://a/b",
        objectives={"concurrency": 200, "contextTokens": 8192},
    )
    plan = compute_plan(make_fleet([heavy], [make_node("a", accelerators=8)]), 0.0)
    assert [str(each.spec.shape) for each in plan.models if each.spec] == ["TP4"]
    plan = compute_plan(make_fleet([heavy], [make_pairs(accelerators=8)]), 0.0)
    assert [str(each.spec.shape) for each in plan.models if each.spec] == ["TP2 x PP2"]
    assert places(plan) == [on("a", 0, 1, 2, 3)]


def test_beside_a_replica_that_was_told_no_index_ray_goes_on_choosing() -> None:
    old = make_slot(node_id="a", accelerators=2)
    nodes = [make_pairs()]
    plan = compute_plan(make_fleet([make_qwen("new", 1)], nodes, [old]), 0.0)
    assert places(plan)[0] == on("a")
    assert "accelerators" not in _application(plan, "new")["args"]
    alone = compute_plan(make_fleet([make_qwen("new", 1)], nodes), 0.0)
    assert places(alone)[0] == on("a", 0, 1)


def test_where_ray_chose_for_some_and_the_plan_for_others_nothing_new_goes() -> None:
    slots = [make_slot(node_id="a", accelerators=2), make_slot(ordinal=1, node_id="a", indices=(0, 1))]
    nodes = [make_pairs(accelerators=8), make_pairs("b")]
    plan = compute_plan(make_fleet([make_qwen("new", 1)], nodes, slots), 0.0)
    assert places(plan)[0] == on("b", 0, 1)


def test_a_replica_whose_needs_ray_has_forgotten_holds_some_of_its_node() -> None:
    stopping = replace(
        make_slot(node_id="a", phase=SlotPhase.STOPPING, readable=False),
        place=(),
        needs=Needs(accelerators=0, memory_bytes=0),
    )
    plan = compute_plan(make_fleet([make_qwen("new", 1)], [make_pairs()], [stopping]), 0.0)
    assert places(plan)[0] == on("a")


def test_on_a_cpu_node_there_is_nothing_to_count() -> None:
    plan = compute_plan(make_snapshot(), 0.0)
    assert places(plan) == [on("node-1")]


def test_a_model_that_no_node_holds_takes_two_and_serve_gets_a_bundle_on_each() -> None:
    models, nodes = [make_405b()], make_h100s("a", "b")
    plan = compute_plan(make_fleet(models, nodes), 0.0)
    (model,) = plan.models
    assert model.spec is not None
    assert str(model.spec.shape) == "TP8 x PP2"
    whole = tuple(range(8))
    assert places(plan) == [(SlotPlace("a", whole), SlotPlace("b", whole))]
    deployment = _application(plan, "huge")["deployments"][0]
    assert deployment["placement_group_bundles"] == [{"GPU": 8}, {"GPU": 8}]
    selectors = deployment["placement_group_bundle_label_selector"]
    assert selectors == [{"ray.io/node-id": "a"}, {"ray.io/node-id": "b"}]
    assert deployment["ray_actor_options"] == {"num_cpus": 0, "num_gpus": 8}
    assert _application(plan, "huge")["args"]["accelerators"] == [list(whole), list(whole)]
    (slot,) = deploy(plan)
    assert (slot.place, slot.needs) == (places(plan)[0], model.slots[0].needs)
    again = compute_plan(make_fleet(models, nodes, [slot]), 1.0)
    assert [each.action for each in again.models[0].slots] == [SlotAction.KEEP]
    assert sum(pool.accelerators_used for pool in again.pools) == 16


def test_the_document_of_a_plan_says_on_which_nodes_and_accelerators() -> None:
    plan = compute_plan(make_fleet([make_405b()], make_h100s("a", "b")), 0.0)
    (found,) = make_plan_document(plan, {})["models"]
    assert found["gpus"] == 16
    whole = list(range(8))
    nodes = [{"node": name, "accelerators": whole} for name in ("a", "b")]
    assert found["places"] == [{"replica": str(plan.models[0].slots[0].name), "nodes": nodes}]


def test_a_model_that_one_node_holds_is_not_spread_however_many_there_are() -> None:
    slow = make_qwen_artifact()
    asked = {"ttftMilliseconds": 1, "concurrency": 40}
    model = make_model(artifact=slow, source="hf://a/b", objectives=asked)
    nodes = [make_node(name, accelerators=2) for name in ("a", "b")]
    (plan,) = compute_plan(make_fleet([model], nodes), 0.0).models
    assert plan.spec is not None
    assert plan.spec.shape.accelerators <= 2


def test_it_waits_where_a_node_of_the_two_is_not_free() -> None:
    nodes = make_h100s("a", "b")
    other = make_slot(node_id="b", indices=(0,))
    plan = compute_plan(make_fleet([make_405b()], nodes, [other]), 0.0)
    (placed,) = (each for each in plan.models[0].verdicts if each.type == ConditionType.PLACED)
    assert placed.status is False
    assert placed.message == f"1 replica to come once {other.name} is gone"
    assert places(plan) == []


def test_workers_are_brought_up_for_all_its_nodes_before_it_is_created() -> None:
    here, coming = make_h100s("a", "b")
    coming = replace(coming, state=NodeState.POTENTIAL, group="big")
    (slot,) = compute_plan(make_fleet([make_405b()], [here, coming]), 0.0).models[0].slots
    assert slot.action is SlotAction.AWAIT
    assert slot.reason.endswith("on a.local and a worker of big that is being brought up")


@pytest.mark.parametrize("lost", ["a", "b"])
def test_a_starting_replica_is_beyond_use_without_either_of_its_nodes(lost: str) -> None:
    nodes = make_h100s("a", "b", "c")
    (slot,) = deploy(compute_plan(make_fleet([make_405b()], nodes), 0.0))
    starting = replace(slot, phase=SlotPhase.LOADING)
    left = [node for node in nodes if node.node_id != lost]
    plan = compute_plan(make_fleet([make_405b()], left, [starting]), 1.0)
    fates = {each.name: (each.action, each.reason) for each in plan.models[0].slots}
    assert fates[slot.name] == (SlotAction.REMOVE, f"its node {lost} is gone")


def test_it_moves_where_either_of_its_nodes_is_being_emptied() -> None:
    nodes = make_h100s("a", "b", "c", "d")
    models = [make_405b()]
    (slot,) = deploy(compute_plan(make_fleet(models, nodes), 0.0))
    emptied = [replace(node, state=NodeState.RETIRING) if node.node_id == "b" else node for node in nodes]
    plan = compute_plan(make_fleet(models, emptied, [slot]), 1.0)
    old, new = plan.models[0].slots
    assert old.reason == "serves until another takes its place: its node is being emptied"
    assert [each.node_id for each in new.place] == ["c", "d"]


def test_stages_in_one_node_each_have_a_linked_pair() -> None:
    model = make_qwen("staged", 1, tensor=2, pipeline=2)
    plan = compute_plan(make_fleet([model], [make_pairs()]), 0.0)
    assert places(plan) == [on("a", 0, 1, 2, 3)]
    taken = make_slot(node_id="a", indices=(1,))
    later = compute_plan(make_fleet([model], [make_pairs(accelerators=8)], [taken]), 0.0)
    assert places(later)[0] == on("a", 2, 3, 4, 5)


def test_the_status_shows_nodes_and_accelerators_as_planned_and_as_seen() -> None:
    models, nodes = [make_qwen(replicas=1)], [make_pairs()]
    (slot,) = deploy(compute_plan(make_fleet(models, nodes), 0.0))
    assert _shown(make_fleet(models, nodes, [slot])) == [("a.local", [0, 1], [])]
    seeing = replace(slot, seen=_devices("a", 0, 1))
    assert _shown(make_fleet(models, nodes, [seeing])) == [("a.local", [0, 1], [0, 1])]


def test_a_replica_that_computes_elsewhere_than_it_was_told_is_told_of() -> None:
    models, nodes = [make_qwen(replicas=1)], [make_pairs()]
    (slot,) = deploy(compute_plan(make_fleet(models, nodes), 0.0))
    stray = replace(slot, seen=_devices("a", 2, 3))
    fleet = make_fleet(models, nodes, [stray])
    verdicts = {each.type: each for each in compute_plan(fleet, 1.0).models[0].verdicts}
    assert (verdicts["Placed"].status, verdicts["Placed"].reason) == (False, "OtherAccelerators")
    assert verdicts["Placed"].message == f"{slot.name} was given 0, 1 of a, and computes on 2, 3 of a"
    assert verdicts["Ready"].status is True, "it serves all the same"
    assert find_obstacle(compute_plan(fleet, 1.0).models[0]) is None, "and lacks nothing"
    assert _shown(fleet) == [("a.local", [0, 1], [2, 3])]


def _application(plan: FleetPlan, model: str) -> dict[str, Any]:
    applications = serve_config(plan, SETTINGS)["applications"]
    return next(dict(each) for each in applications if f".{model}." in each["name"])


def _devices(node_id: str, *indices: int) -> tuple[SeenDevice, ...]:
    return tuple(SeenDevice(node_id=node_id, index=index, uuid=f"GPU-{index}") for index in indices)


def _shown(fleet: FleetSnapshot) -> list[tuple[str, list[int], list[int]]]:
    plan = compute_plan(fleet, 1.0)
    status = model_status(
        plan.models[0], fleet.models[0].resource, look(fleet, plan)[fleet.models[0].key], 1.0
    )
    return [(node.node, node.accelerators, node.seen) for place in status.places for node in place.nodes]


@examples(60)
@given(
    wanted=st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.integers(1, 3)), min_size=1, max_size=5),
    later=st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.integers(0, 3)), min_size=1, max_size=5),
    domain=st.sampled_from([2, 4, 8]),
)
def test_no_accelerator_is_given_twice_and_no_layer_split_over_a_link_that_is_not_there(
    wanted: list[tuple[int, int]], later: list[tuple[int, int]], domain: int
) -> None:
    """Two passes with a restart between: what was told the first time binds the second."""
    labels = {"plinth.dev/link-domain-size": str(domain)}
    nodes = [make_node(name, accelerators=8, labels=labels) for name in ("a", "b")]
    slots: list[Slot] = []
    for now, round_of in enumerate((wanted, later)):
        models = [
            make_qwen(f"m{number}", replicas, tensor=tensor)
            for number, (tensor, replicas) in enumerate(round_of)
            if replicas
        ]
        plan = compute_plan(make_fleet(models, nodes, slots), float(now))
        slots = deploy(plan)
        held = [(each.node_id, index) for slot in slots for each in slot.place for index in each.accelerators]
        assert len(held) == len(set(held))
        assert sum(slot.needs.all_accelerators for slot in slots) == len(held)
        for slot in slots:
            assert len({index // domain for each in slot.place for index in each.accelerators}) == 1
