from dataclasses import replace

import pytest

from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.blocks import AttentionKind, FeedForward
from plinth.domain.models.quantization import Quantization
from plinth.domain.sizing.rules import find_obstacle
from plinth.domain.sizing.shape import Shape
from plinth.tests.domain.models.public_models import read_public
from plinth.tests.domain.sizing.sizing_builders import (
    EXPERTS,
    LATENT,
    QWEN_7B,
    QWEN_30B_A3B,
    QWEN_32B,
    SOFTMAX,
    one_layer,
)

GPTQ = Quantization(method="gptq", weight_bits_hundredths=416, group_size=128)
BLOCKS = Quantization(method="fp8", weight_bits_hundredths=801, group_size=128)


@pytest.mark.parametrize("tensor", [1, 2, 4, 8])
def test_degrees_that_divide_heads_kv_heads_and_width_are_taken(tensor: int) -> None:
    assert find_obstacle(QWEN_32B, Shape(tensor=tensor)) is None


def test_more_ranks_than_kv_heads_are_taken_where_they_are_a_multiple() -> None:
    wide = one_layer(QWEN_32B, attention=replace(SOFTMAX, heads=64), feed_forward=FeedForward(width=16384))
    assert find_obstacle(wide, Shape(tensor=16)) is None
    assert find_obstacle(wide, Shape(tensor=12)) == "12 does not divide the model's 8 KV heads"


def test_attention_heads_must_divide_even_where_kv_heads_do() -> None:
    odd = one_layer(QWEN_32B, attention=replace(SOFTMAX, heads=36, kv_heads=4))
    assert find_obstacle(odd, Shape(tensor=8)) == "8 does not divide the model's 36 attention heads"


def test_a_latent_has_no_kv_heads_to_divide() -> None:
    latent = one_layer(QWEN_32B, attention=LATENT, feed_forward=FeedForward(width=16384))
    assert find_obstacle(latent, Shape(tensor=16)) is None


def test_the_feed_forward_width_must_divide() -> None:
    odd = one_layer(QWEN_32B, feed_forward=FeedForward(width=27646))
    assert find_obstacle(odd, Shape(tensor=4)) == "4 does not divide the feed-forward width of 27646"


def test_the_vocabulary_is_padded_and_refuses_nothing() -> None:
    assert find_obstacle(replace(QWEN_32B, vocabulary=49157), Shape(tensor=8)) is None


@pytest.mark.parametrize(
    ("quantization", "width", "tensor", "obstacle"),
    [
        (GPTQ, 27648, 8, None),
        (GPTQ, 18944, 4, None),
        # Qwen2.5-72B's GPTQ models cannot be split by 8: 29568 / 8 = 3696 are 28.9 groups.
        (GPTQ, 29568, 8, "29568 / 8 does not hold whole groups of 128 gptq weights"),
        (replace(GPTQ, group_size=0), 29568, 8, None),
        (None, 29568, 8, None),
        (BLOCKS, 29568, 8, "29568 / 8 does not hold whole groups of 128 fp8 weights"),
    ],
)
def test_every_rank_holds_whole_groups_of_quantised_weights(
    quantization: Quantization | None, width: int, tensor: int, obstacle: str | None
) -> None:
    model = one_layer(replace(QWEN_32B, quantization=quantization), feed_forward=FeedForward(width=width))
    assert find_obstacle(model, Shape(tensor=tensor)) == obstacle


def test_bitsandbytes_weights_are_not_split_but_may_stand_in_stages() -> None:
    model = replace(QWEN_32B, quantization=Quantization(method="bitsandbytes", weight_bits_hundredths=450))
    assert find_obstacle(model, Shape(tensor=2)) is not None
    assert find_obstacle(model, Shape(pipeline=2)) is None


def test_no_more_stages_than_layers_and_none_of_an_encoder() -> None:
    assert find_obstacle(QWEN_7B, Shape(pipeline=28)) is None
    assert find_obstacle(QWEN_7B, Shape(pipeline=29)) == "29 stages are more than the model's 28 layers"
    encoder = one_layer(
        QWEN_7B, attention=replace(SOFTMAX, kind=AttentionKind.ENCODER, heads=28, kv_heads=28)
    )
    assert find_obstacle(encoder, Shape(pipeline=2)) == "vLLM splits no encoder into stages"


def test_layers_without_attention_are_no_encoders() -> None:
    hybrid = read_public("nvidia/NVIDIA-Nemotron-Nano-9B-v2")
    assert any(not each.attention.heads for each in hybrid.layers)
    assert find_obstacle(hybrid, Shape(pipeline=2)) is None


@pytest.mark.parametrize(
    ("model", "shape", "obstacle"),
    [
        (QWEN_30B_A3B, Shape(tensor=2, expert=2), None),
        (QWEN_30B_A3B, Shape(data=4, expert=4), None),
        (QWEN_30B_A3B, Shape(tensor=4), None),
        (QWEN_32B, Shape(tensor=2, expert=2), "the model has no experts to spread"),
        (QWEN_32B, Shape(data=2), "copies of a model without experts are replicas"),
        (
            QWEN_30B_A3B,
            Shape(tensor=4, expert=2),
            "vLLM spreads experts over all 4 ranks of a stage or none, not over 2",
        ),
        (
            one_layer(QWEN_30B_A3B, feed_forward=replace(EXPERTS, experts=8)),
            Shape(tensor=4, data=4, expert=16),
            "16 ranks are more than the model's 8 experts",
        ),
        (
            one_layer(QWEN_30B_A3B, feed_forward=replace(EXPERTS, expert_width=770)),
            Shape(tensor=4),
            "4 does not divide the experts' width of 770",
        ),
    ],
)
def test_experts_are_spread_as_vllm_spreads_them(
    model: ModelArchitecture, shape: Shape, obstacle: str | None
) -> None:
    assert find_obstacle(model, shape) == obstacle


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (Shape(), "TP1"),
        (Shape(tensor=8, pipeline=2), "TP8 x PP2"),
        (Shape(data=8, expert=8), "TP1 x DP8 x EP8"),
    ],
)
def test_a_shape_reads_as_people_write_it(shape: Shape, words: str) -> None:
    assert str(shape) == words
