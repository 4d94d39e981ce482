"""Room for LoRA adapters; figures are counted by hand from the public models' widths."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plinth.domain.quantities import GIB
from plinth.domain.sizing.adapters import adapter_bytes
from plinth.domain.sizing.choice import SizingRefusal, choose
from plinth.domain.sizing.engine_defaults import adapter_rank, adapters_at_once
from plinth.domain.sizing.memory import plan_memory
from plinth.domain.sizing.request import AdapterRoom, EngineOptions
from plinth.domain.sizing.shape import Shape
from plinth.tests.domain.models.public_models import read_public
from plinth.tests.domain.sizing.sizing_builders import QWEN_30B_A3B, ask

ONE = AdapterRoom(slots=1, rank=16)
LLAMA_8B = read_public("meta-llama/Llama-3.1-8B")
WHOLE = 3 * 4096 + 4096 + 2 * 4096 + 4096
"""Of a layer of Llama 3.1 8B: into queries, keys and values; out of attention; into gate and up; out of down."""
SPLIT = (4096 + 1024 + 1024) + 4096 + 2 * 14336 + 14336
VOCABULARY = 128256 + 4096


@pytest.mark.parametrize(
    ("shape", "elements"),
    [
        (Shape(), 32 * (WHOLE + SPLIT) + 2 * VOCABULARY),
        (Shape(tensor=2), 32 * (WHOLE + SPLIT // 2) + 2 * VOCABULARY),
        (Shape(tensor=8), 32 * (WHOLE + SPLIT // 8) + 2 * VOCABULARY),
        (Shape(pipeline=2), 16 * (WHOLE + SPLIT) + VOCABULARY),
    ],
)
def test_every_linear_layer_and_the_vocabulary_have_buffers(shape: Shape, elements: int) -> None:
    assert adapter_bytes(LLAMA_8B, shape, ONE) == elements * 16 * 2


def test_the_layers_of_an_adapter_for_all_of_them_are_those_that_peft_trains() -> None:
    """Of Llama's 8B it says `trainable params: 41,943,040` with rank 16 and all linear layers."""
    assert 32 * (WHOLE + SPLIT) * 16 == 41_943_040


def test_adapters_that_are_fully_sharded_lie_once_on_all_ranks() -> None:
    sharded = replace(ONE, sharded=True)
    elements = 32 * (WHOLE + SPLIT) // 2 + 2 * VOCABULARY
    assert adapter_bytes(LLAMA_8B, Shape(tensor=2), sharded) == elements * 16 * 2
    assert adapter_bytes(LLAMA_8B, Shape(), sharded) == adapter_bytes(LLAMA_8B, Shape(), ONE)


def test_more_heads_than_one_rank_has_are_not_fewer_keys_than_one() -> None:
    few = adapter_bytes(LLAMA_8B, Shape(tensor=16), ONE)
    queries, kv = 4096 // 16, 2 * 128
    split = queries + kv + 4096 // 16 + 3 * 14336 // 16
    assert few == (32 * (WHOLE + split) + 2 * VOCABULARY) * 16 * 2


@pytest.mark.parametrize(
    ("shape", "held", "width"),
    [(Shape(), 128, 768), (Shape(tensor=2), 128, 384), (Shape(data=8, expert=8), 16, 768)],
)
def test_every_expert_has_buffers_of_its_own(shape: Shape, held: int, width: int) -> None:
    """Qwen3-30B-A3B: one adapter of rank 16 takes 1.6 GiB of one accelerator."""
    attention = 3 * 2048 + (32 * 128 + 2 * 4 * 128 + 32 * 128) // shape.tensor + 2048
    experts = held * (3 * 2048 + 3 * width)
    elements = 48 * (attention + experts + 2048 + 128) + 2 * (151936 + 2048)
    assert adapter_bytes(QWEN_30B_A3B, shape, ONE) == elements * 16 * 2


def test_the_latent_s_buffers_are_whole_and_those_of_its_heads_are_split() -> None:
    """DeepSeek-V2-Lite: no latent of queries, 16 heads; the first layer dense, 26 with 64 experts and two for all."""
    model = read_public("deepseek-ai/DeepSeek-V2-Lite")
    hidden, latent, rope = 2048, 512, 64
    whole = hidden + latent + rope + hidden + latent + hidden
    split = 16 * 192 + 16 * (128 + 128) + 16 * 128
    dense = 3 * hidden + 3 * 10944 // 2
    routed = 64 * (3 * hidden + 3 * 1408 // 2) + hidden + 64 + 3 * hidden + 3 * 2 * 1408 // 2
    elements = 27 * (whole + split // 2) + dense + 26 * routed + 2 * (102400 + hidden)
    assert adapter_bytes(model, Shape(tensor=2), ONE) == elements * 16 * 2


def test_a_hybrid_s_linear_layers_are_counted_and_not_twice_over() -> None:
    """Qwen3-Next's 36 linear layers have 12 kinds of what Plinth knows the elements of only: a bound from above."""
    model = read_public("Qwen/Qwen3-Next-80B-A3B-Instruct")
    linear = next(each for each in model.layers if not each.attention.kv_heads)
    without = replace(linear, attention=replace(linear.attention, projections=()))
    alone = replace(model, layers=(linear,))
    mixers = adapter_bytes(alone, Shape(), ONE) - adapter_bytes(
        replace(model, layers=(without,)), Shape(), ONE
    )
    hidden, values, mixed = 2048, 4096, 2 * 2048 + 4096
    exact = linear.count * (6 * hidden + mixed + values + 2 * 32 + values + hidden) * 16 * 2
    assert exact <= mixers <= exact * 1.1


def test_room_is_rank_by_adapters_by_width() -> None:
    one = adapter_bytes(LLAMA_8B, Shape(), ONE)
    assert adapter_bytes(LLAMA_8B, Shape(), AdapterRoom(slots=8, rank=64)) == 32 * one
    assert adapter_bytes(replace(LLAMA_8B, dtype_bytes=4), Shape(), ONE) == 2 * one
    assert adapter_bytes(LLAMA_8B, Shape(), None) == 0


def test_the_kv_cache_gives_what_adapters_take() -> None:
    plain = plan_memory(ask(LLAMA_8B), Shape())
    told = plan_memory(ask(LLAMA_8B, options=EngineOptions(adapters=AdapterRoom(slots=8, rank=64))), Shape())
    assert told.adapter_bytes == 32 * adapter_bytes(LLAMA_8B, Shape(), ONE)
    assert plain.kv_bytes - told.kv_bytes == told.adapter_bytes
    assert (told.weights_bytes, told.overhead_bytes) == (plain.weights_bytes, plain.overhead_bytes)
    assert told.full_requests < plain.full_requests


def test_graphs_are_captured_with_adapters_and_without() -> None:
    with_experts = [
        plan_memory(ask(QWEN_30B_A3B, options=EngineOptions(adapters=room, graphs=graphs)), Shape())
        for room in (None, ONE)
        for graphs in (True, False)
    ]
    plain, eager, adapted, adapted_eager = (each.overhead_bytes for each in with_experts)
    assert adapted - adapted_eager == 2 * (plain - eager) > 0


def test_adapters_are_a_reason_to_take_more_accelerators_and_to_refuse() -> None:
    def shape(room: AdapterRoom | None) -> Shape:
        found = choose(ask(QWEN_30B_A3B, users=8, options=EngineOptions(adapters=room)))
        assert not isinstance(found, SizingRefusal), found
        return found.shape

    eight = AdapterRoom(slots=8, rank=128)
    assert shape(None).accelerators < shape(eight).accelerators
    refused = choose(ask(LLAMA_8B, gpu="L4", per_node=1, options=EngineOptions(adapters=eight)))
    assert isinstance(refused, SizingRefusal)
    assert "lower spec.adapters[].rank or max-loras" in refused.message


def test_the_reasons_say_what_adapters_take() -> None:
    found = choose(ask(LLAMA_8B, users=8, options=EngineOptions(adapters=replace(ONE, slots=8))))
    assert not isinstance(found, SizingRefusal), found
    assert found.memory.adapter_bytes / GIB == pytest.approx(0.69, abs=0.005)
    assert "an accelerator, adapters 704.6 MiB, KV " in found.reasons[0]


@pytest.mark.parametrize(
    ("ranks", "told"), [((), 0), ((4, 2), 8), ((16, 33), 64), ((257,), 320), ((512,), 512)]
)
def test_the_rank_is_the_next_that_vllm_makes_room_for(ranks: tuple[int, ...], told: int) -> None:
    assert adapter_rank(ranks) == told


def test_at_most_eight_adapters_share_a_batch() -> None:
    assert [adapters_at_once(count) for count in (1, 8, 16)] == [1, 8, 8]
