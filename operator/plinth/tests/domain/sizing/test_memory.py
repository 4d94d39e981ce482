"""Against vLLM 0.25.1 on H200: Qwen2.5-32B's shape, bf16, as `e2e/benchmarks/results/gpu_stack.jsonl` has it too."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.api.v1alpha1 import Task
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.blocks import FeedForward
from plinth.domain.quantities import GIB, MIB
from plinth.domain.sizing.activation import activation_bytes
from plinth.domain.sizing.allocation import slack_bytes
from plinth.domain.sizing.engine_defaults import (
    BatchLimits,
    batch_limits,
    block_tokens,
    graph_count,
    has_new_runner,
)
from plinth.domain.sizing.memory import plan_memory
from plinth.domain.sizing.request import EngineOptions
from plinth.domain.sizing.shape import Shape
from plinth.tests.domain.sizing.sizing_builders import (
    LATENT,
    QWEN_7B,
    QWEN_30B_A3B,
    QWEN_32B,
    ask,
    known,
    one_layer,
)

SERVER = BatchLimits(tokens=8192, sequences=1024)


@pytest.mark.parametrize(
    ("tensor", "percent", "weights_gib", "kv_tokens"),
    [(1, 90, 59.07, 265_952), (1, 92, 59.07, 277_408), (2, 90, 29.73, 775_216), (2, 46, 29.73, 271_312)],
)
def test_weights_and_kv_tokens_are_what_vllm_reported(
    tensor: int, percent: int, weights_gib: float, kv_tokens: int
) -> None:
    plan = plan_memory(ask(percent=percent), Shape(tensor=tensor))
    assert plan.weights_bytes / GIB == pytest.approx(weights_gib, abs=0.01)
    assert plan.kv_tokens == pytest.approx(kv_tokens, rel=0.002)


def test_the_matrices_of_a_layer_end_before_a_step_of_the_allocator() -> None:
    assert slack_bytes(QWEN_32B, Shape(tensor=1)) == 0
    assert slack_bytes(QWEN_32B, Shape(tensor=2)) == 64 * 3 * MIB
    assert slack_bytes(QWEN_32B, Shape(tensor=2, pipeline=2)) == 32 * 3 * MIB


def test_the_worked_example_of_the_peak_of_a_step_is_right() -> None:
    peak = activation_bytes(QWEN_32B, Shape(), SERVER, context_tokens=8192, hidden_copies=2)
    assert peak == 1456 * MIB


def test_a_split_halves_what_a_step_computes_inside_but_not_the_hidden_state() -> None:
    peak = activation_bytes(QWEN_32B, Shape(tensor=2), SERVER, context_tokens=8192, hidden_copies=2)
    assert peak == 160 * MIB + 648 * MIB


def test_a_large_vocabulary_makes_the_sampler_the_peak() -> None:
    """1024 requests of 152,064 logits take 6 bytes each on the new runner, 14 on the old one."""
    wide = replace(one_layer(QWEN_7B, feed_forward=FeedForward(width=4096)), vocabulary=152_064)
    hidden = 2 * 8192 * 3584 * 2
    new = activation_bytes(wide, Shape(), SERVER, context_tokens=8192, hidden_copies=2)
    assert new == hidden + 1024 * 152_064 * 6
    old = activation_bytes(QWEN_30B_A3B, Shape(), SERVER, context_tokens=8192, hidden_copies=0)
    assert old == 1024 * 151_936 * 18


def test_a_latent_unfolds_a_workspace_of_long_contexts() -> None:
    model = replace(one_layer(QWEN_32B, attention=LATENT, feed_forward=FeedForward(width=64)), hidden=2048)
    plain = replace(model, vocabulary=64)
    peak = activation_bytes(plain, Shape(), SERVER, context_tokens=8192, hidden_copies=0)
    assert peak == 65_536 * 16 * (128 + 128) * 2 + 8192 * 16 * (192 + 128 + 128) * 2


def test_models_with_experts_run_on_the_old_runner_which_counts_their_graphs() -> None:
    assert has_new_runner(QWEN_32B)
    assert not has_new_runner(QWEN_30B_A3B)
    assert has_new_runner(replace(QWEN_30B_A3B, name="qwen2_moe"))
    assert not has_new_runner(replace(QWEN_32B, task=Task.EMBED))
    with_graphs = plan_memory(ask(QWEN_30B_A3B), Shape())
    without = plan_memory(ask(QWEN_30B_A3B, options=EngineOptions(graphs=False)), Shape())
    assert with_graphs.overhead_bytes > without.overhead_bytes
    dense = (plan_memory(ask(options=EngineOptions(graphs=graphs)), Shape()) for graphs in (True, False))
    assert len({plan.overhead_bytes for plan in dense}) == 1


def test_a_large_accelerator_captures_51_sizes_twice_and_a_small_one_the_same() -> None:
    assert graph_count(SERVER) == 2 * 51
    assert graph_count(BatchLimits(tokens=2048, sequences=256)) == 2 * 51
    assert graph_count(BatchLimits(tokens=2048, sequences=4)) == 2 * 4


@pytest.mark.parametrize(
    ("gpu", "limits"),
    [
        ("H200", BatchLimits(tokens=8192, sequences=1024)),
        ("MI300X", BatchLimits(tokens=8192, sequences=1024)),
        ("A100-80GB", BatchLimits(tokens=2048, sequences=256)),
        ("L4", BatchLimits(tokens=2048, sequences=256)),
        ("CPU", BatchLimits(tokens=2048, sequences=128)),
    ],
)
def test_batch_limits_follow_memory_but_an_a100_gets_the_small_ones(gpu: str, limits: BatchLimits) -> None:
    accelerator = known(gpu)
    assert batch_limits(accelerator, accelerator.usable_memory_bytes, EngineOptions()) == limits


def test_stated_limits_count_and_no_more_requests_than_tokens_are_batched() -> None:
    limits = batch_limits(known("H200"), 0, EngineOptions(batched_tokens=100, sequences=400))
    assert limits == BatchLimits(tokens=100, sequences=100)


def test_kv_tokens_come_in_whole_blocks() -> None:
    assert plan_memory(ask(), Shape()).kv_tokens % 16 == 0
    latent = one_layer(QWEN_32B, attention=LATENT)
    assert block_tokens(latent, known("H200")) == 64
    assert block_tokens(latent, known("CPU")) == 128
    assert plan_memory(ask(latent), Shape()).kv_tokens % 64 == 0


def test_an_fp8_cache_holds_twice_the_tokens() -> None:
    wide, narrow = (
        plan_memory(ask(options=EngineOptions(kv_element_bytes=each)), Shape()).kv_tokens for each in (2, 1)
    )
    assert narrow == pytest.approx(2 * wide, abs=32)


def test_beyond_the_kv_heads_more_ranks_hold_no_more_of_a_request() -> None:
    four, eight = (plan_memory(ask(QWEN_7B), Shape(tensor=each)) for each in (4, 8))
    assert four.needed_kv_bytes == eight.needed_kv_bytes


def test_copies_hold_requests_of_their_own() -> None:
    one, two = (plan_memory(ask(QWEN_30B_A3B), shape) for shape in (Shape(), Shape(data=2, expert=2)))
    assert two.weights_bytes < one.weights_bytes
    assert two.needed_kv_bytes == one.needed_kv_bytes // 2
    assert two.kv_tokens > 2 * one.kv_tokens


@given(
    tensor=st.sampled_from([1, 2, 4]),
    pipeline=st.integers(1, 4),
    percent=st.integers(30, 95),
    context=st.sampled_from([512, 8192, 32768]),
    model=st.sampled_from([QWEN_32B, QWEN_7B, QWEN_30B_A3B]),
)
def test_all_of_the_engines_share_is_given_out_and_none_twice(
    tensor: int, pipeline: int, percent: int, context: int, model: ModelArchitecture
) -> None:
    request = ask(model, percent=percent, context=context)
    plan = plan_memory(request, Shape(tensor=tensor, pipeline=pipeline))
    assert plan.weights_bytes + plan.overhead_bytes + plan.kv_bytes == request.place.engine_bytes
    assert plan.full_requests * context <= max(0, plan.kv_tokens) + context
