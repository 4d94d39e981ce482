"""The blocks of each layer, built from a config's entries and its family's traits."""

from __future__ import annotations

from collections import Counter

from plinth.domain.models.blocks import (
    NO_ATTENTION,
    NO_FEED_FORWARD,
    Attention,
    AttentionKind,
    FeedForward,
    Layers,
)
from plinth.domain.models.families import Family, HeadNorm
from plinth.domain.models.keys import Keys
from plinth.domain.models.layer_kinds import LayerKind, Mixing, read_kinds
from plinth.domain.models.mixers import read_mixer
from plinth.domain.models.weights import WHOLE, Part, Weights

INDEX_SCALE_BYTES = 4
"""A sparse indexer keeps a key a token at 8 bits, and one scale (vllm: DeepseekV32IndexerCache)."""


def read_layers(keys: Keys, family: Family) -> tuple[tuple[Layers, ...], tuple[int, ...]]:
    """The kinds of layers with their counts, and the kind of each layer from the input on."""
    blocks = [
        (_attention(keys, family, kind.mixing, index), _feed_forward(keys, family, kind, index))
        for index, kind in enumerate(read_kinds(keys))
    ]
    counts = Counter(blocks)
    norms = family.norms * keys.number("hidden_size") * (2 if family.norm_bias else 1)
    layers = tuple(
        Layers(count=count, attention=attention, feed_forward=feed_forward, norms=norms)
        for (attention, feed_forward), count in counts.items()
    )
    places = {block: place for place, block in enumerate(counts)}
    return layers, tuple(places[each] for each in blocks)


def _attention(keys: Keys, family: Family, mixing: Mixing, index: int) -> Attention:
    if mixing is Mixing.NONE:
        return NO_ATTENTION
    if mixing in {Mixing.LINEAR, Mixing.MAMBA, Mixing.CONVOLUTION}:
        return read_mixer(mixing, keys)
    if not keys.of_layer("num_attention_heads", index):
        return NO_ATTENTION  # A list states heads for other layers only.
    return _latent(keys) if keys.number("kv_lora_rank") else _softmax(keys, family, mixing, index)


def _softmax(keys: Keys, family: Family, mixing: Mixing, index: int) -> Attention:
    hidden = keys.number("hidden_size")
    heads = keys.of_layer("num_attention_heads", index)
    kv_heads = 1 if keys.flag("multi_query") else keys.of_layer("num_key_value_heads", index, heads)
    head_dim = keys.number("head_dim", hidden // heads)
    value_dim = keys.number("v_head_dim", head_dim)
    window = keys.number("attention_chunk_size") or keys.number("sliding_window")
    slides = mixing is Mixing.SLIDING and window < keys.number("max_position_embeddings", window + 1)
    stated_bias = bool(keys.flag("attention_bias"))
    vectors = _head_norms(keys, family, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    vectors += heads if family.sinks else 0
    vectors += hidden if _either(family.output_bias, stated_bias) else 0
    kind = AttentionKind.SLIDING if slides else AttentionKind.FULL
    return Attention(
        kind=AttentionKind.ENCODER if family.encoder else kind,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=value_dim,
        window_tokens=window if slides else 0,
        qkv_bias=_either(family.qkv_bias, stated_bias),
        output_gate=family.output_gate,
        vectors=vectors,
    )


def _head_norms(keys: Keys, family: Family, *, heads: int, kv_heads: int, head_dim: int) -> int:
    """Elements of the norms of queries and keys, where the family or `use_qk_norm` has them.

    Llama 4 states the flag too, and its norm has no weights.
    """
    norm = family.head_norm
    if norm is HeadNorm.NONE and keys.flag("use_qk_norm") and not keys.states("attention_chunk_size"):
        norm = HeadNorm.ALL_HEADS if keys.word("model_type").startswith("cohere") else HeadNorm.EACH_HEAD
    widths = {HeadNorm.NONE: 0, HeadNorm.EACH_HEAD: 2, HeadNorm.ALL_HEADS: heads + kv_heads}
    return widths[norm] * head_dim


def _latent(keys: Keys) -> Attention:
    heads = keys.number("num_attention_heads")
    rope = keys.number("qk_rope_head_dim")
    latent, q_latent = keys.number("kv_lora_rank"), keys.number("q_lora_rank")
    index_width = keys.number("index_head_dim")
    return Attention(
        kind=AttentionKind.LATENT,
        heads=heads,
        kv_heads=1,
        head_dim=keys.number("qk_nope_head_dim") + rope,
        value_dim=keys.number("v_head_dim"),
        latent_width=latent,
        q_latent_width=q_latent,
        rope_width=rope,
        index_bytes_per_token=index_width + INDEX_SCALE_BYTES if index_width else 0,
        vectors=latent + q_latent,
        projections=_indexer(keys),
    )


def _indexer(keys: Keys) -> tuple[Weights, ...]:
    """DeepSeek-V3.2's: queries from the latent, one key, a weight a head, a norm; whole on every rank."""
    width, heads = keys.number("index_head_dim"), keys.number("index_n_heads")
    if not width:
        return ()
    hidden = keys.number("hidden_size")
    matrices = keys.number("q_lora_rank") * heads * width + hidden * (width + heads)
    return (Weights(Part.ATTENTION, matrices, WHOLE), Weights(Part.VECTORS, 2 * width, WHOLE))


def _feed_forward(keys: Keys, family: Family, kind: LayerKind, index: int) -> FeedForward:
    """What a layer does to each token alone; a layer with experts has no dense part beside the shared ones."""
    if not kind.feed_forward:
        return NO_FEED_FORWARD
    return _experts(keys, family, index) if kind.experts else _dense(keys, family, index)


def _dense(keys: Keys, family: Family, index: int) -> FeedForward:
    """Granite 4 without experts has the shared part alone; Llama 4 states the dense width apart."""
    width = keys.of_layer("intermediate_size", index, 4 * keys.number("hidden_size"))
    width = keys.number("intermediate_size_mlp", width)
    if keys.states("shared_intermediate_size") and not keys.number("num_experts"):
        width = keys.number("shared_intermediate_size")
    biased = _either(family.feed_forward_bias, bool(keys.flag("mlp_bias")))
    inner = 2 * width if family.gated else width
    return FeedForward(
        width=width, gated=family.gated, vectors=inner + keys.number("hidden_size") if biased else 0
    )


def _experts(keys: Keys, family: Family, index: int) -> FeedForward:
    hidden, count = keys.number("hidden_size"), keys.number("num_experts")
    width = keys.number("moe_intermediate_size", keys.of_layer("intermediate_size", index))
    gated_shared = keys.number("shared_expert_intermediate_size")
    shared = keys.number("shared_intermediate_size", width * keys.number("n_shared_experts"))
    corrections = count if family.corrected_router or keys.word("topk_method") == "noaux_tc" else 0
    return FeedForward(
        width=0,
        gated=family.gated,
        experts=count,
        experts_per_token=keys.number("num_experts_per_tok", 1),
        expert_width=width,
        shared_width=gated_shared or shared,
        # Qwen's shared expert has a gate of one output.
        vectors=(hidden if gated_shared else 0) + corrections + (count if family.expert_bias else 0),
        expert_vectors=2 * width + hidden if family.expert_bias else 0,
    )


def _either(by_family: bool | None, stated: bool) -> bool:  # noqa: FBT001 - two answers to one question
    return stated if by_family is None else by_family
