"""What one replica gets of a pool, asked through the planner's own question."""

from collections.abc import Mapping

import pytest

from plinth.domain.fleet import Artifact, ModelFormat, Needs
from plinth.domain.quantities import GIB, MIB
from plinth.domain.targets import Target
from plinth.tests.domain.builders import H200_BYTES, make_node, make_qwen_artifact, make_smol_artifact
from plinth.tests.domain.fits import choose_on, refusal_of, target_of

QWEN_30B_A3B: Mapping[str, object] = {
    "model_type": "qwen3_moe",
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "vocab_size": 151936,
}
HEAVY = {"concurrency": 40, "contextTokens": 8192}


def test_a_replica_on_accelerators_is_told_what_nodes_say_they_have() -> None:
    spec = target_of(make_qwen_artifact(), gpus=8).spec
    assert spec.memory_bytes == H200_BYTES * 90 // 100
    assert (spec.kv_bytes, spec.threads) == (0, 0)


def test_the_plan_says_what_was_chosen_and_why_not_less_or_more() -> None:
    target = target_of(make_qwen_artifact(), gpus=8, objectives=HEAVY)
    assert target.spec.tensor_parallel == target.needs.accelerators == 2
    assert target.sentences[-2:] == (
        "not TP1: its KV cache holds 32 requests of 8192 tokens, 40 asked",
        "not TP4: 2 accelerators more for the same goals",
    )


def test_a_goal_takes_more_accelerators_and_one_that_none_meets_is_told_by_how_much() -> None:
    tight = target_of(make_qwen_artifact(), gpus=8, objectives={"concurrency": 20, "tpotMilliseconds": 15})
    assert tight.needs.accelerators == 2
    hopeless = target_of(make_qwen_artifact(), gpus=8, objectives={"tpotMilliseconds": 1})
    assert "no shape here meets the goals: TPOT p95 " in " ".join(hopeless.sentences)


def test_stages_by_hand_reach_the_replica() -> None:
    target = target_of(make_qwen_artifact(), gpus=4, parallelism={"tensor": 2, "pipeline": 2})
    assert (target.spec.tensor_parallel, target.spec.pipeline_parallel) == (2, 2)
    assert target.needs.accelerators == 4
    assert str(target.spec.shape) == "TP2 x PP2"


def test_experts_by_hand_reach_the_replica_with_a_tensor_degree_that_goes_with_them() -> None:
    artifact = Artifact(format=ModelFormat.SAFETENSORS, config=QWEN_30B_A3B, weights_bytes=61 * GIB)
    target = target_of(artifact, gpus=8, parallelism={"expert": 4})
    assert target.spec.expert_parallel == target.needs.accelerators == 4


def test_stages_lie_on_as_many_nodes_as_they_need_and_as_many_on_each() -> None:
    nodes = [make_node(name, accelerators=8) for name in ("a", "b")]

    def needs_of(**degrees: int) -> Needs:
        found = choose_on(make_qwen_artifact(), *nodes, parallelism=degrees)
        assert isinstance(found, Target), found
        return found.needs

    assert needs_of(tensor=8, pipeline=2) == Needs(accelerators=8, memory_bytes=0, nodes=2, stages=1)
    assert needs_of(tensor=4, pipeline=4) == Needs(accelerators=8, memory_bytes=0, nodes=2, stages=2)
    assert needs_of(tensor=4, pipeline=2) == Needs(accelerators=8, memory_bytes=0, nodes=1, stages=2)


def test_stages_that_nodes_cannot_share_evenly_are_refused_with_those_that_they_can() -> None:
    nodes = [make_node(name, accelerators=8) for name in ("a", "b")]
    assert refusal_of(make_qwen_artifact(), *nodes, parallelism={"tensor": 4, "pipeline": 3}) == (
        "spec.parallelism.pipeline: 3 stages of 4 accelerators cannot lie evenly on 2 nodes of 8; 1, 2 or 4 would"
    )
    assert refusal_of(make_qwen_artifact(), *nodes, parallelism={"tensor": 8, "pipeline": 3}) == (
        "spec.parallelism.pipeline: 24 accelerators are more than the pool has (16)"
    )


def test_degrees_by_hand_that_hold_too_little_are_refused_with_the_figures() -> None:
    node = make_node(accelerators=8)
    message = refusal_of(make_qwen_artifact(), node, objectives=HEAVY, parallelism={"tensor": 1})
    assert message.startswith(
        "spec.parallelism: no shape fits one node of pool p: TP1: its KV cache holds 32 requests of 8192 tokens, 40 asked"
    )


def test_where_nothing_fits_each_candidate_is_named_with_its_obstacle() -> None:
    small = make_node(accelerators=2, accelerator="T4", accelerator_memory_bytes=16 * GIB)
    message = refusal_of(make_qwen_artifact(), small)
    assert message.startswith("no shape fits one node of pool p: TP1: weights of 59.1 GiB an accelerator")
    assert "TP2: weights of 29.7 GiB" in message


def test_arguments_of_the_engine_change_what_it_holds() -> None:
    def tokens(**args: str) -> int:
        prediction = target_of(make_qwen_artifact(), gpus=1, engine={"args": args}).prediction
        assert prediction is not None
        return prediction.memory.kv_tokens

    assert tokens(**{"kv-cache-dtype": "fp8"}) == pytest.approx(2 * tokens(), rel=0.01)
    assert (
        tokens(**{"max-num-batched-tokens": "2048"})
        > tokens()
        > tokens(**{"max-num-batched-tokens": "65536"})
    )
    assert tokens(quantization="fp8") > 1.3 * tokens()


def test_a_pooling_model_has_no_head_and_promises_no_time_per_token() -> None:
    embed = target_of(make_qwen_artifact(), gpus=1, model={"source": "hf://a/b", "task": "Embed"}).prediction
    generate = target_of(make_qwen_artifact(), gpus=1).prediction
    assert embed is not None and generate is not None  # noqa: PT018 - for the types
    assert generate.memory.weights_bytes - embed.memory.weights_bytes >= 49152 * 5120 * 2


def test_a_cpu_replica_is_whole_and_counts_weights_kv_and_overhead() -> None:
    """98 MiB + 8 requests · 2048 tokens · 23040 B = 360 MiB + 400 MiB = 858 MiB, in steps of 64: 896 MiB."""
    target = target_of(make_smol_artifact())
    assert target.spec.kv_bytes == 360 * MIB
    assert target.spec.memory_bytes == target.needs.memory_bytes == 896 * MIB
    assert (target.spec.tensor_parallel, target.spec.threads) == (1, 4)


def test_threads_follow_the_smallest_node_and_are_never_none() -> None:
    found = choose_on(make_smol_artifact(), make_node("a", cpus=1), make_node("b", cpus=64))
    assert isinstance(found, Target)
    assert found.spec.threads == 1


def test_a_cpu_replica_larger_than_every_node_is_refused_with_its_parts() -> None:
    message = refusal_of(make_smol_artifact(), make_node(memory_bytes=GIB // 2))
    assert message.startswith(
        "one replica needs 896.0 MiB: weights 98.0 MiB + KV 360.0 MiB (8 x 2048 tokens)"
    )
    assert "no node of pool p has more than 460.8 MiB to use" in message


@pytest.mark.parametrize("degree", ["tensor", "pipeline", "expert", "data"])
def test_degrees_are_refused_on_cpus(degree: str) -> None:
    message = refusal_of(make_smol_artifact(), make_node(), parallelism={degree: 3})
    assert message == f"spec.parallelism.{degree}: 3 needs accelerators; on CPU nodes 1 would do"
