from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.architecture import Architecture, read_architecture
from plinth.domain.fleet import Artifact, Engine, Node
from plinth.domain.pools import Pool, resolve_pools
from plinth.domain.quantities import GIB, MIB
from plinth.domain.shapes import (
    ShapeDecision,
    ShapeRefusal,
    ShapeRequest,
    choose_shape,
    footprint,
    tensor_obstacle,
)
from plinth.tests.domain.builders import make_node, make_pool, make_qwen_artifact, make_smol_artifact

H200S = make_node(accelerators=8)


def architecture_of(artifact: Artifact) -> Architecture:
    found = read_architecture(artifact)
    assert isinstance(found, Architecture)
    return found


def pool_of(*nodes: Node, **spec: Any) -> Pool:
    return resolve_pools((make_pool(**spec),), nodes)[0]


def request(
    artifact: Artifact,
    pool: Pool,
    *,
    engine: Engine = Engine.VLLM,
    context: int = 2048,
    concurrency: int = 8,
    tensor: int | None = None,
) -> ShapeRequest:
    return ShapeRequest(
        architecture=architecture_of(artifact),
        weights_bytes=artifact.weights_bytes,
        engine=engine,
        pool=pool,
        context_tokens=context,
        concurrency=concurrency,
        tensor=tensor,
    )


def qwen(pool: Pool, **changes: Any) -> ShapeDecision | ShapeRefusal:
    return choose_shape(request(make_qwen_artifact(), pool, **changes))


def chosen(decision: ShapeDecision | ShapeRefusal) -> ShapeDecision:
    assert isinstance(decision, ShapeDecision), decision
    return decision


def refused(decision: ShapeDecision | ShapeRefusal) -> str:
    assert isinstance(decision, ShapeRefusal), decision
    return decision.message


@pytest.mark.parametrize(
    ("tensor", "weights_gib", "kv_tokens"),
    [(1, 59.07, 265_952), (2, 29.73, 775_216)],
)
def test_the_formulae_meet_what_was_measured_with_qwen_32b_on_h200(
    tensor: int, weights_gib: float, kv_tokens: int
) -> None:
    """vLLM 0.25.1 reported these; the prediction may promise at most 1% less, and never more."""
    asked = request(make_qwen_artifact(), pool_of(H200S))
    needed = footprint(asked, tensor)
    usable = asked.pool.usable_accelerator_bytes(H200S)
    predicted = (usable - needed.weights_bytes - needed.overhead_bytes) * tensor // 262_144
    assert needed.weights_bytes / GIB == pytest.approx(weights_gib, rel=0.01)
    assert 0.99 * kv_tokens <= predicted <= kv_tokens


def test_the_worked_example_of_the_footprint_is_right() -> None:
    needed = footprint(request(make_qwen_artifact(), pool_of(H200S), context=8192, concurrency=40), 2)
    assert needed.weights_bytes / GIB == pytest.approx(29.83, abs=0.01)
    assert needed.kv_bytes == 40 * GIB
    assert needed.overhead_bytes / GIB == pytest.approx(1.73, abs=0.01)


def test_forty_requests_of_8k_need_two_h200_and_the_plan_says_why_not_one_or_four() -> None:
    decision = chosen(qwen(pool_of(H200S), context=8192, concurrency=40))
    assert decision.tensor == 2
    assert decision.rejected == (
        "TP1: its KV cache holds 32 requests of 8192 tokens, 40 asked",
        "TP4: fits too, with 2 accelerators more",
    )
    assert "94 requests of 8192" in decision.reason


def test_the_smallest_degree_that_fits_is_taken() -> None:
    assert chosen(qwen(pool_of(H200S), context=8192, concurrency=8)).tensor == 1
    assert chosen(qwen(pool_of(H200S), context=32768, concurrency=100)).tensor == 8


def test_an_engine_may_use_its_share_of_the_accelerator_and_no_more() -> None:
    pool = pool_of(H200S, memoryUtilizationPercent=50)
    assert chosen(qwen(pool)).memory_bytes == H200S.accelerator_memory_bytes * 50 // 100


def test_a_degree_that_does_not_divide_the_kv_heads_is_refused_naming_those_that_do() -> None:
    message = refused(qwen(pool_of(H200S), tensor=3))
    assert message == "spec.parallelism.tensor: 3 does not divide the model's 8 KV heads; 1, 2, 4 or 8 would"


def test_nine_heads_can_be_split_by_three_but_never_by_two() -> None:
    message = refused(choose_shape(request(make_smol_artifact(), pool_of(H200S), tensor=2)))
    assert message == "spec.parallelism.tensor: 2 does not divide the model's 3 KV heads; 1 or 3 would"
    assert chosen(choose_shape(request(make_smol_artifact(), pool_of(H200S), tensor=3))).tensor == 3


def test_ranks_may_outnumber_the_kv_heads_they_are_a_multiple_of() -> None:
    assert tensor_obstacle(architecture_of(make_smol_artifact()), 9) is None
    assert tensor_obstacle(architecture_of(make_qwen_artifact()), 16) == (
        "16 does not divide the model's 40 attention heads"
    )


def test_a_degree_beyond_one_node_is_refused_though_the_pool_has_enough() -> None:
    pool = pool_of(make_node("a", accelerators=2), make_node("b", accelerators=2))
    assert "4 is more than a node of the pool has (2 accelerators)" in refused(qwen(pool, tensor=4))


def test_a_degree_that_is_too_small_for_the_memory_is_refused_with_the_figures() -> None:
    message = refused(qwen(pool_of(H200S), context=8192, concurrency=40, tensor=1))
    assert message == (
        "spec.parallelism.tensor: 1 is too few: its KV cache holds 32 requests of 8192 tokens, 40 asked"
    )


def test_where_nothing_fits_each_candidate_is_named_with_its_obstacle() -> None:
    small = make_node(accelerators=2, accelerator="T4", accelerator_memory_bytes=16 * GIB)
    message = refused(qwen(pool_of(small)))
    assert message.startswith("no shape fits one node of pool default: TP1: weights of 59.1 GiB")
    assert "TP2: weights of 29.8 GiB an accelerator leave no room for KV in 14.4 GiB" in message


def test_accelerators_of_unknown_memory_are_not_guessed_at() -> None:
    silent = make_node(accelerators=1, accelerator_memory_bytes=0)
    assert "do not say how much memory" in refused(qwen(pool_of(silent)))


def test_a_cpu_replica_is_whole_and_counts_weights_kv_and_overhead() -> None:
    """98 MiB + 8 requests · 2048 tokens · 23040 B = 360 MiB + 400 MiB = 858 MiB, in steps of 64: 896 MiB."""
    decision = chosen(
        choose_shape(request(make_smol_artifact(), pool_of(make_node()), engine=Engine.LLAMA_CPP))
    )
    assert decision.footprint.kv_bytes == 360 * MIB
    assert decision.memory_bytes == 896 * MIB
    assert (decision.tensor, decision.threads) == (1, 4)


def test_threads_follow_the_smallest_node_and_are_never_none() -> None:
    pool = pool_of(make_node("a", cpus=1), make_node("b", cpus=64))
    assert chosen(choose_shape(request(make_smol_artifact(), pool, engine=Engine.LLAMA_CPP))).threads == 1


def test_a_cpu_replica_larger_than_every_node_is_refused_with_its_parts() -> None:
    tiny = pool_of(make_node(memory_bytes=GIB // 2))
    message = refused(choose_shape(request(make_smol_artifact(), tiny, engine=Engine.LLAMA_CPP)))
    assert message.startswith(
        "one replica needs 896.0 MiB: weights 98.0 MiB + KV 360.0 MiB (8 x 2048 tokens)"
    )
    assert "no node of pool default has more than 460.8 MiB to use" in message


def test_tensor_parallelism_is_refused_on_cpus() -> None:
    asked = request(make_smol_artifact(), pool_of(make_node()), engine=Engine.LLAMA_CPP, tensor=3)
    assert (
        refused(choose_shape(asked))
        == "spec.parallelism.tensor: 3 needs accelerators; on CPU nodes 1 would do"
    )


@given(context=st.integers(64, 32768), concurrency=st.integers(1, 512), accelerators=st.integers(1, 8))
def test_whatever_is_chosen_divides_the_heads_and_fits_and_nothing_smaller_does(
    context: int, concurrency: int, accelerators: int
) -> None:
    pool = pool_of(make_node(accelerators=accelerators))
    asked = request(make_qwen_artifact(), pool, context=context, concurrency=concurrency)
    usable = pool.usable_accelerator_bytes(pool.nodes[0])

    def works(tensor: int) -> bool:
        return (
            tensor_obstacle(asked.architecture, tensor) is None
            and footprint(asked, tensor).total_bytes <= usable
        )

    decision = choose_shape(asked)
    able = [tensor for tensor in range(1, accelerators + 1) if works(tensor)]
    assert (decision.tensor if isinstance(decision, ShapeDecision) else None) == (able[0] if able else None)
