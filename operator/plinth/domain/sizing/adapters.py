"""What vLLM sets aside for LoRA adapters as it loads a model, whether or not they adapt all that could be adapted.

Every linear layer gets two buffers for each adapter of a batch (vllm/lora/layers/base_linear.py, `create_lora_weights`,
and the same in column_parallel_linear.py, fused_moe.py, vocal_parallel_embedding.py and logits_processor.py):
`lora_a_stacked` has rank · inputs elements, `lora_b_stacked` outputs · rank. Where layers are merged (queries, keys and
values; gate and up) each slice has an `a` of its own. Of what tensor parallelism splits by outputs it splits `b`, by
inputs `a`; the other buffer is whole on every rank, unless `fully-sharded-loras` splits that as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.blocks import Attention, AttentionKind, FeedForward
from plinth.domain.models.weights import Part
from plinth.domain.quantities import ceil_div
from plinth.domain.sizing.request import AdapterRoom
from plinth.domain.sizing.shape import Shape

_MIXER_SLICES = 7
"""The most that come and go at the model's width in what a linear layer or an indexer adds: Qwen3-Next's queries, keys,
values, gate, two gates a head, and what comes out."""


class _Linear(NamedTuple):
    """Linear layers that are laid down alike, in elements a rank of the adapter has."""

    whole: int
    """On every rank of the shape, unless adapters are fully sharded."""
    split: int
    """Of one rank of the shape."""
    ways: int
    """Over how many ranks `whole` is laid if adapters are fully sharded."""


def adapter_bytes(model: ModelArchitecture, shape: Shape, room: AdapterRoom | None) -> int:
    """Of the fullest rank, for as many adapters as `room` says; some models take a little less, see `_vocabulary`.

    Llama 3.1 8B, one adapter of rank 16 on one accelerator: each of 32 layers has 81,920 elements for each of its rank
    (queries, keys and values 3 · 4096 + 6144, output 2 · 4096, gate and up 2 · 4096 + 28672, down 14336 + 4096), the
    vocabulary 2 · (128256 + 4096): 2,886,144 · 16 · 2 bytes = 88 MiB.
    """
    if room is None:
        return 0
    elements = _vocabulary(model, shape)
    for each in model.layers:
        linears = (
            *_attention(each.attention, model.hidden, shape),
            *_feed_forward(each.feed_forward, model.hidden, shape),
        )
        layer = sum(
            one.split + (ceil_div(one.whole, one.ways) if room.sharded else one.whole) for one in linears
        )
        elements += ceil_div(each.count, shape.pipeline) * layer
    return elements * room.rank * room.slots * model.dtype_bytes


def _attention(attention: Attention, hidden: int, shape: Shape) -> Iterator[_Linear]:
    tensor = shape.tensor
    for each in attention.projections:
        if each.part is Part.VECTORS:
            continue
        # Only their elements are known, and one side of each matrix is as wide as the model, or narrower.
        yield _Linear(0, _MIXER_SLICES * hidden + each.on_a_rank(tensor=tensor, expert=1) // hidden, 1)
    if attention.kind is AttentionKind.LINEAR or not attention.heads:
        return
    heads = attention.heads // tensor
    if attention.kind is AttentionKind.LATENT:
        yield from _latent(attention, hidden, heads, tensor)
    else:
        queries = heads * attention.head_dim * (2 if attention.output_gate else 1)
        kv = max(1, attention.kv_heads // tensor) * (attention.head_dim + attention.value_dim)
        yield _Linear(3 * hidden, queries + kv, tensor)
    yield _Linear(hidden, heads * attention.value_dim, tensor)


def _latent(attention: Attention, hidden: int, heads: int, tensor: int) -> Iterator[_Linear]:
    """Down-projections are whole on every rank, and so are their buffers."""
    latents = attention.latent_width + attention.rope_width
    if attention.q_latent_width:
        yield _Linear(0, 2 * hidden + attention.q_latent_width + latents, 1)
    else:
        yield _Linear(0, hidden + latents, 1)
    yield _Linear(attention.q_latent_width or hidden, heads * attention.head_dim, tensor)
    unfolded = attention.head_dim - attention.rope_width + attention.value_dim
    yield _Linear(attention.latent_width, heads * unfolded, tensor)


def _feed_forward(part: FeedForward, hidden: int, shape: Shape) -> Iterator[_Linear]:
    """Of experts each has buffers of its own, and the router has some."""
    inner = 2 if part.gated else 1
    for width in (part.width, part.shared_width):
        if width:
            # Into the layer, and out of it.
            yield _Linear((inner + 1) * hidden, (inner + 1) * (width // shape.tensor), shape.tensor)
    if part.experts:
        held, width = ceil_div(part.experts, shape.expert), part.expert_width // shape.expert_split
        yield _Linear(held * (inner + 1) * hidden, held * (inner + 1) * width, shape.expert_split)
        yield _Linear(0, hidden + part.experts, 1)


def _vocabulary(model: ModelArchitecture, shape: Shape) -> int:
    """Embedding on the first stage, logits on the last, whole on every rank: a row for each word and the model's width.

    Most models have both (`embedding_modules` in vllm/model_executor/models); some, such as Qwen2, have neither and
    take so much less.
    """
    both = shape.pipeline == 1 or model.tied_embeddings
    return (2 if both else 1) * (model.vocabulary + model.hidden)
