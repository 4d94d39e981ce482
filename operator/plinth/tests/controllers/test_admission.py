"""What admission refuses, warns of and fills in, on a fleet as the caches have it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from plinth.api.v1alpha1 import GPUPool
from plinth.controllers.admission import AdmissionDecision, check_form, default, validate
from plinth.domain.fleet import FleetSnapshot, Model, Node
from plinth.domain.planner import compute_plan
from plinth.tests.api.building import model_document, policy_document, pool_document
from plinth.tests.domain.builders import (
    make_model,
    make_node,
    make_pool,
    make_qwen_artifact,
    make_snapshot,
)

QWEN = "hf://Qwen/Qwen2.5-32B-Instruct"
Document = dict[str, Any]


def qwen(name: str = "qwen", /, namespace: str = "default", **spec: Any) -> Document:
    document = model_document(name, **{"model": {"source": QWEN}, **spec})
    document["metadata"]["namespace"] = namespace
    return document


def known_qwen() -> Model:
    """Somebody else's model of the same source: its configuration has been read."""
    return make_model("other", "elsewhere", source=QWEN, artifact=make_qwen_artifact())


def gpu_node(name: str = "gpu-1", pool: str = "h200", accelerators: int = 8) -> Node:
    return replace(make_node(name, accelerators=accelerators), pool=pool)


def fleet(
    *models: Model, pools: tuple[GPUPool, ...] | None = None, nodes: tuple[Node, ...] | None = None
) -> FleetSnapshot:
    return make_snapshot(
        models=models,
        pools=(make_pool("h200"),) if pools is None else pools,
        nodes=(gpu_node(),) if nodes is None else nodes,
    )


def refused(new: Document, in_fleet: FleetSnapshot, old: Document | None = None) -> list[str]:
    return list(validate(new, old, in_fleet).refusals)


def test_a_model_that_can_run_is_taken_without_a_word() -> None:
    assert validate(qwen(), None, fleet(known_qwen())) == AdmissionDecision()


def test_a_model_of_which_nothing_is_known_yet_is_taken() -> None:
    assert validate(qwen(), None, fleet()) == AdmissionDecision()


def test_a_degree_that_does_not_divide_the_heads_is_refused_with_those_that_do() -> None:
    assert refused(qwen(parallelism={"tensor": 3}), fleet(known_qwen())) == [
        "spec.parallelism.tensor: 3 does not divide the model's 8 KV heads; 1, 2, 4 or 8 would"
    ]


def test_a_degree_is_judged_even_before_there_is_a_pool() -> None:
    empty = fleet(known_qwen(), pools=(), nodes=())
    assert refused(qwen(parallelism={"tensor": 3}), empty) == [
        "spec.parallelism.tensor: 3 does not divide the model's 8 KV heads; 1, 2, 4 or 8 would"
    ]


@pytest.mark.parametrize("known", [(), (known_qwen(),)], ids=["model not read", "model read"])
def test_a_degree_beyond_every_node_of_the_pool_is_refused(known: tuple[Model, ...]) -> None:
    small = fleet(*known, nodes=(gpu_node(accelerators=4),))
    assert refused(qwen(parallelism={"tensor": 8}), small) == [
        "spec.parallelism.tensor: 8 is more than a node of the pool has (4 accelerators); use fewer, or another spec.pool"
    ]


def test_experts_that_no_model_could_spread_so_are_refused_before_the_model_is_read() -> None:
    degrees = {"tensor": 2, "data": 2, "expert": 8}
    (message,) = refused(qwen(parallelism=degrees), fleet())
    assert message.startswith(
        "spec.parallelism.expert: experts are spread over tensor times data accelerators"
    )
    assert message.endswith(
        "and 8 does not go with tensor 2 and data 2; leave expert out, or tensor 2 and data 2"
    )


@pytest.mark.parametrize("known", [(), (known_qwen(),)])
def test_an_argument_that_cannot_be_planned_with_is_refused(known: tuple[Model, ...]) -> None:
    engine = {"args": {"max-num-seqs": "a few"}}
    assert refused(qwen(engine=engine), fleet(*known)) == [
        "spec.engine.args.max-num-seqs: must be a number above 0, got 'a few'; write one such as 256"
    ]
    assert refused(qwen(engine={"args": {"max-num-seqs": "64"}}), fleet(*known)) == []


def test_weights_that_cannot_be_loaded_as_asked_are_refused_once_the_model_is_known() -> None:
    engine = {"args": {"quantization": "awq"}}
    assert refused(qwen(engine=engine), fleet()) == []
    assert refused(qwen(engine=engine), fleet(known_qwen()))[0].startswith(
        "spec.engine.args.quantization: the model's weights are not stored as awq; fp8, "
    )


def test_memory_that_can_never_fit_is_refused_with_each_shape_tried() -> None:
    tiny = replace(gpu_node(accelerators=2), accelerator_memory_bytes=8 << 30)
    (refusal,) = refused(qwen(), fleet(known_qwen(), nodes=(tiny,)))
    assert refusal.startswith("no shape fits one node of pool h200: TP1: weights of")
    assert "TP2: weights of" in refusal


def test_a_context_longer_than_the_model_s_is_refused() -> None:
    assert refused(qwen(objectives={"contextTokens": 65536}), fleet(known_qwen())) == [
        "spec.objectives.contextTokens: 65536 exceeds the model's 32768; 32768 would do"
    ]


def test_an_engine_that_cannot_compute_on_the_pool_is_refused_before_the_model_is_read() -> None:
    (refusal,) = refused(qwen(engine={"type": "LlamaCpp"}), fleet())
    assert refusal == (
        "spec.engine.type: LlamaCpp computes on CPUs and pool h200 has H200; Auto takes one that can, "
        "or set spec.pool to another pool"
    )


def test_the_planner_says_of_the_same_model_what_admission_said() -> None:
    asked = make_model("qwen", source=QWEN, artifact=make_qwen_artifact(), parallelism={"tensor": 3})
    plan = compute_plan(fleet(asked), now=0.0)
    assert refused(qwen(parallelism={"tensor": 3}), fleet(known_qwen())) == [plan.models[0].reasons[0]]


# What models have to do with each other


def taking(name: str, of: str, percent: int = 10, **more: Any) -> Model:
    return make_model(name, source=QWEN, traffic={"of": of, "percent": percent, **more})


def main() -> Model:
    return make_model("main", source=QWEN, artifact=make_qwen_artifact())


def test_a_canary_of_a_model_that_is_not_there_yet_is_a_warning() -> None:
    decision = validate(qwen(traffic={"of": "main", "percent": 5}), None, fleet(known_qwen()))
    assert decision.refusals == ()
    assert decision.warnings == ("spec.traffic.of: there is no ModelDeployment default/main yet",)


def test_shares_of_more_than_all_requests_are_refused_with_what_is_left() -> None:
    full = fleet(main(), taking("first", "main", 60), taking("second", "main", 30, mirrorPercent=100))
    assert refused(qwen(traffic={"of": "main", "percent": 11}), full) == [
        "spec.traffic.percent: 11 with the 90 that other models take of default/main is above 100; ask for 10 at most"
    ]
    assert refused(qwen(traffic={"of": "main", "mirrorPercent": 1}), full) == [
        (
            "spec.traffic.mirrorPercent: 1 with the 100 that other models take of default/main is above 100; "
            "ask for 0 at most"
        )
    ]
    assert refused(qwen(traffic={"of": "main", "percent": 10}), full) == []


def test_an_edit_of_a_share_is_counted_once() -> None:
    full = fleet(main(), taking("qwen", "main", 60))
    new, old = (qwen(traffic={"of": "main", "percent": percent}) for percent in (100, 60))
    assert refused(new, full, old) == []


def test_a_canary_of_a_canary_is_refused_from_either_end() -> None:
    chain = fleet(main(), taking("canary", "main"))
    assert refused(qwen(traffic={"of": "canary"}), chain) == [
        (
            "spec.traffic.of: default/canary takes part in the requests of main itself; "
            "name main, or remove spec.traffic of default/canary"
        )
    ]
    assert refused(qwen("main", traffic={"of": "qwen"}), chain) == [
        (
            "spec.traffic: default/canary takes part in this model's requests, so it cannot take part in those of "
            "another; remove spec.traffic here or of default/canary"
        )
    ]


def test_names_that_lead_elsewhere_are_warned_of_as_the_other_model_may_go() -> None:
    asked = qwen(aliases=["other", "best"], fallbacks=["small"])
    decision = validate(asked, None, fleet(make_model("other", source=QWEN, artifact=make_qwen_artifact())))
    assert decision.refusals == ()
    assert decision.warnings == (
        "spec.aliases: default/other answers to other; remove it here or there",
        "spec.fallbacks: no model answers to small yet",
    )


# Pools


def test_a_pool_that_is_not_there_yet_is_a_warning_as_it_may_be_applied_next() -> None:
    decision = validate(qwen(pool="h100"), None, fleet(known_qwen()))
    assert decision.refusals == ()
    assert decision.warnings == (
        "spec.pool: there is no GPUPool h100; there is h200; the model waits until there is one for it",
    )


def test_the_first_model_may_come_before_the_first_pool() -> None:
    decision = validate(qwen(), None, fleet(pools=(), nodes=()))
    assert decision.refusals == ()
    assert decision.warnings == ("there is no GPUPool yet; the model waits until one is made",)


def test_a_pool_without_nodes_refuses_nothing() -> None:
    assert validate(qwen(), None, fleet(known_qwen(), nodes=())) == AdmissionDecision()


def test_one_pool_that_may_come_to_fit_is_enough() -> None:
    pools = (make_pool("a100"), make_pool("h200"))
    tiny = replace(gpu_node(pool="a100"), accelerator_memory_bytes=1 << 30)
    assert refused(qwen(), fleet(known_qwen(), pools=pools, nodes=(tiny,))) == []
    assert refused(qwen(pool="a100"), fleet(known_qwen(), pools=pools, nodes=(tiny,)))


def test_another_namespace_s_pool_is_refused_by_name() -> None:
    dedicated = fleet(pools=(make_pool("h200", namespace="team-a"),))
    assert refused(qwen(pool="h200"), dedicated) == [
        (
            "spec.pool: no GPUPool serves the namespace default: h200 serves team-a only; "
            "use one whose spec.namespace is default or absent"
        )
    ]
    assert refused(qwen(namespace="team-a", pool="h200"), dedicated) == []


def test_with_no_pool_named_another_s_pool_is_one_to_wait_beside() -> None:
    decision = validate(qwen(), None, fleet(pools=(make_pool("h200", namespace="team-a"),)))
    assert decision.refusals == ()
    assert "h200 serves team-a only" in decision.warnings[0]


def test_code_of_the_model_s_own_is_refused_where_the_pool_forbids_it() -> None:
    asked = qwen(engine={"type": "VLLM", "args": {"trust-remote-code": "true"}})
    (refusal,) = refused(asked, fleet())
    assert refusal.startswith("spec.engine.args.trust-remote-code: it runs code")
    assert "GPUPool h200 says trustRemoteCode: Forbidden" in refusal
    trusting = make_pool("h200", namespace="default", trustRemoteCode="Allowed")
    assert refused(asked, fleet(pools=(trusting,))) == []


def test_a_volume_is_refused_on_a_pool_that_serves_all() -> None:
    (refusal,) = refused(qwen(model={"source": "pvc://models/qwen"}), fleet())
    assert refusal == (
        "spec.model.source: pvc:// needs a pool with a namespace of its own, and GPUPool h200 serves all; "
        "use one whose spec.namespace is the model's and whose spec.volumes has the claim models"
    )


def test_a_volume_that_the_pool_does_not_mount_is_refused_with_those_it_does() -> None:
    dedicated = make_pool("h200", namespace="default", volumes=[{"claim": "weights"}])
    (refusal,) = refused(qwen(model={"source": "pvc://models/qwen"}), fleet(pools=(dedicated,)))
    assert refusal == (
        "spec.model.source: GPUPool h200 does not mount the claim models, its spec.volumes has weights; "
        "add the claim there"
    )
    assert refused(qwen(model={"source": "pvc://weights/qwen"}), fleet(pools=(dedicated,))) == []


# Names


def named(name: str, namespace: str = "team-b", **more: Any) -> Model:
    return make_model(name, namespace, source="hf://org/name", reading=True, **more)


def test_a_name_that_is_taken_is_refused_with_who_has_it() -> None:
    assert refused(qwen(servedName="chat"), fleet(named("chat"))) == [
        "spec.servedName: team-b/chat already answers to the name chat; give this model another spec.servedName"
    ]


def test_an_older_resource_cannot_take_a_name_from_a_younger_one() -> None:
    older = make_model("qwen", source=QWEN, reading=True, first_seen=1.0)
    assert refused(qwen(servedName="chat"), fleet(older, named("chat", first_seen=9.0)), old=qwen())


def test_an_edit_that_keeps_its_name_is_taken() -> None:
    mine = make_model("qwen", source=QWEN, reading=True, served_name="chat")
    edited = qwen(servedName="chat", scaling={"maxReplicas": 3})
    assert refused(edited, fleet(mine), old=qwen(servedName="chat")) == []


def test_a_model_s_own_full_name_cannot_be_kept_from_it_but_who_used_it_is_told() -> None:
    squatter = named("x", served_name="default/qwen")
    decision = validate(qwen(), None, fleet(squatter))
    assert decision.refusals == ()
    assert decision.warnings == (
        (
            "team-b/x loses a name by this: default/qwen already answers to the name default/qwen; "
            "give this model another spec.servedName"
        ),
    )


# Edits


def test_an_edit_that_leaves_the_spec_alone_is_never_refused() -> None:
    broken = qwen(parallelism={"tensor": 3})
    labelled = {**broken, "metadata": {**broken["metadata"], "labels": {"a": "b"}}}
    assert validate(labelled, broken, fleet(known_qwen())) == AdmissionDecision()
    invalid = qwen(scaling={"maxReplicas": 0})
    released = {**invalid, "metadata": {**invalid["metadata"], "finalizers": []}}
    assert validate(released, invalid, fleet()) == AdmissionDecision()


def test_who_mends_one_fault_of_two_is_let_through_and_reminded_of_the_other() -> None:
    old = qwen(parallelism={"tensor": 3}, servedName="chat")
    new = qwen(parallelism={"tensor": 3}, servedName="talk")
    decision = validate(new, old, fleet(known_qwen(), make_model("qwen", source=QWEN, reading=True)))
    assert decision.refusals == ()
    assert decision.warnings == (
        "spec.parallelism.tensor: 3 does not divide the model's 8 KV heads; 1, 2, 4 or 8 would",
    )


def test_a_fault_of_form_that_was_there_before_does_not_hold_up_other_edits() -> None:
    old = qwen(objectives={"percentile": 100})
    new = qwen(objectives={"percentile": 100}, scaling={"maxReplicas": 2})
    decision = validate(new, old, fleet())
    assert decision.refusals == ()
    assert decision.warnings == (
        "spec.objectives.percentile: must be at most 99, got 100; anything from 50 to 99 works",
    )


# Pools as resources


def test_a_pool_cannot_be_given_to_another_namespace() -> None:
    new, old = pool_document(namespace="team-b"), pool_document(namespace="team-a")
    (refusal,) = refused(new, fleet(), old=old)
    assert refusal.startswith("spec.namespace: must stay as it was made; make a second GPUPool")


def test_a_pool_s_edit_warns_of_the_models_that_it_leaves_without_a_place() -> None:
    running = make_model("qwen", source=QWEN, artifact=make_qwen_artifact(), pool="h200")
    small = replace(gpu_node(), accelerator_memory_bytes=80 << 30)
    before = fleet(running, pools=(make_pool("h200"),), nodes=(small,))
    decision = validate(pool_document(accelerator="A100"), pool_document(), before)
    assert decision.refusals == ()
    assert decision.warnings == ("default/qwen can no longer run: pool h200 has no nodes at present",)


def test_a_new_pool_strands_nobody() -> None:
    assert validate(pool_document("a100"), None, fleet(known_qwen())) == AdmissionDecision()


# Form and defaults


def test_faults_of_form_are_told_all_at_once_in_the_words_of_plinth_up() -> None:
    decision = check_form(model_document(scaling={"maxReplicas": 0}, engine={"type": "vllm"}), None)
    assert decision.message == (
        '\n* spec.engine.type: must be one of Auto, LlamaCpp, VLLM, got "vllm"; did you mean VLLM?'
        "\n* spec.scaling.maxReplicas: must be at least 1, got 0; anything from 1 to 1000 works"
    )


def test_one_fault_is_told_as_one_sentence() -> None:
    decision = check_form(model_document(scaling={"maxReplicas": 0}), None)
    assert decision.message == (
        "spec.scaling.maxReplicas: must be at least 1, got 0; anything from 1 to 1000 works"
    )


def test_the_served_name_is_written_out() -> None:
    assert default(model_document("chat")) == {"spec": {"servedName": "chat"}}
    assert default(model_document("chat", servedName="talk")) == {}
    assert default(pool_document()) == {}


def test_a_name_that_the_api_server_is_still_to_give_is_not_guessed() -> None:
    unnamed = {**model_document(), "metadata": {"generateName": "chat-"}}
    assert check_form(unnamed, None).refusals == ()
    assert default(unnamed) == {}


def test_a_default_that_depends_on_other_fields_is_left_to_follow_them() -> None:
    """Written out, 512 input tokens would be refused once the context is cut to 256."""
    assert default(model_document(servedName="a", objectives={"contextTokens": 256})) == {}


@pytest.mark.parametrize("spec", [None, [], "x", {}])
def test_defaults_take_whatever_comes(spec: Any) -> None:
    document = {"kind": "ModelDeployment", "metadata": {"name": "a"}, "spec": spec}
    assert isinstance(default(document), dict)
    assert check_form(document, None).refusals


def test_a_policy_is_taken_with_a_warning_of_each_model_that_is_not_there_yet() -> None:
    policy = policy_document(models=["qwen", "chat"])
    decision = validate(policy, None, fleet(make_model("qwen", "default")))
    assert decision == AdmissionDecision(
        warnings=("spec.models: there is no ModelDeployment default/chat yet",)
    )
    assert default(policy) == {}


def test_a_policy_whose_limit_can_never_be_reached_is_refused() -> None:
    policy = policy_document(limits={"perKey": {"requestsPerMinute": 9, "requestsPerHour": 8}})
    (refusal,) = refused(policy, fleet())
    assert refusal.startswith("spec.limits.perKey.requestsPerMinute: must be at most requestsPerHour")
