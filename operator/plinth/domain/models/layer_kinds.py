"""Which kind each layer of a model is: how it attends, and whether it has experts."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from plinth.domain.models.keys import Keys


class Mixing(StrEnum):
    """What a layer does to look at other tokens."""

    FULL = "full"
    SLIDING = "sliding"
    LINEAR = "linear_attention"
    MAMBA = "mamba"
    CONVOLUTION = "conv"
    NONE = "none"


class LayerKind(NamedTuple):
    """One layer as the config describes it."""

    mixing: Mixing
    experts: bool
    feed_forward: bool = True
    """False for a layer that mixes and does nothing else."""


WORDS = {
    "full_attention": Mixing.FULL,
    "attention": Mixing.FULL,
    "sliding_attention": Mixing.SLIDING,
    "chunked_attention": Mixing.SLIDING,
    "linear_attention": Mixing.LINEAR,
    "mamba": Mixing.MAMBA,
    "conv": Mixing.CONVOLUTION,
}
"""Of `layer_types`."""
LETTERS = {
    "M": LayerKind(Mixing.MAMBA, experts=False, feed_forward=False),
    "*": LayerKind(Mixing.FULL, experts=False, feed_forward=False),
    "-": LayerKind(Mixing.NONE, experts=False),
    "E": LayerKind(Mixing.NONE, experts=True),
}
"""Of Nemotron-H's `hybrid_override_pattern`, whose layers do one thing each."""


def read_kinds(keys: Keys) -> list[LayerKind]:
    """The kind of each layer, from the input on."""
    pattern = keys.word("hybrid_override_pattern")
    if pattern:
        return [LETTERS[letter] for letter in pattern if letter in LETTERS]
    count = keys.number("num_hidden_layers")
    return [LayerKind(_mixing(keys, index), _has_experts(keys, index)) for index in range(count)]


def _mixing(keys: Keys, index: int) -> Mixing:
    """The first rule that the config states an entry for."""
    if index < len(keys.words("layer_types")):
        return WORDS.get(keys.words("layer_types")[index], Mixing.FULL)
    if len(keys.numbers("num_key_value_heads")) > 1 and not keys.of_layer("num_key_value_heads", index):
        return _unnamed_mixer(keys)
    if keys.states("full_attn_idxs"):
        return Mixing.FULL if index in keys.numbers("full_attn_idxs") else Mixing.CONVOLUTION
    period, interval = keys.number("attn_layer_period"), keys.number("full_attention_interval")
    if period:
        return Mixing.FULL if index % period == keys.number("attn_layer_offset") else Mixing.MAMBA
    if interval:
        return Mixing.LINEAR if (index + 1) % interval else Mixing.FULL
    return Mixing.SLIDING if _slides(keys, index) else Mixing.FULL


def _unnamed_mixer(keys: Keys) -> Mixing:
    """What a layer is that states no KV heads, as GGUF says it."""
    if keys.states("linear_num_value_heads"):
        return Mixing.LINEAR
    return Mixing.CONVOLUTION if keys.states("conv_L_cache") else Mixing.MAMBA


def _slides(keys: Keys, index: int) -> bool:
    """Whether a layer of a model without linear layers looks at a window only.

    Every n-th is full by `sliding_window_pattern` (Gemma, Cohere, gpt-oss); Llama 4's chunked layers are those with
    rotary positions; Qwen 2 slides from `max_window_layers` on; others all do (Mistral 7B).
    """
    if keys.number("attention_chunk_size"):
        if len(keys.numbers("no_rope_layers")) > 1:
            return bool(keys.of_layer("no_rope_layers", index))
        return (index + 1) % keys.number("no_rope_layer_interval", 4) != 0
    if not keys.number("sliding_window") or keys.flag("use_sliding_window") is False:
        return False
    pattern = keys.number("sliding_window_pattern")
    if pattern:
        return (index + 1) % pattern != 0
    return index >= keys.number("max_window_layers")


def _has_experts(keys: Keys, index: int) -> bool:
    """Whether a layer has experts, by each family's way of saying where they start and how often they come."""
    if not keys.number("num_experts") or index in keys.numbers("mlp_only_layers"):
        return False
    if keys.numbers("moe_layers"):
        return index in keys.numbers("moe_layers")
    if index < max(keys.number("first_k_dense_replace"), keys.number("moe_layer_start_index")):
        return False
    period = keys.number("expert_layer_period")
    if period:
        return index % period == keys.number("expert_layer_offset")
    step = keys.number("interleave_moe_layer_step") or keys.number("decoder_sparse_step", 1)
    return (index + 1) % step == 0
