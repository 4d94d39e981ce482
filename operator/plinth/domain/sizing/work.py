"""What one step of the engine has to do on one rank: bytes to read, operations, messages; `steps` makes time of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from plinth.domain.models.architecture import BITS_HUNDREDTHS_PER_BYTE, ModelArchitecture
from plinth.domain.models.blocks import Attention, AttentionKind
from plinth.domain.models.weights import Part, Weights
from plinth.domain.quantities import ceil_div
from plinth.domain.sizing.allocation import bits_hundredths
from plinth.domain.sizing.shape import Shape

_FP8_METHODS = frozenset({"fp8", "modelopt", "fbgemm_fp8", "compressed-tensors"})
_INT8_METHODS = frozenset({"int8"})
_EIGHT_BITS_FROM = 750
"""Hundredths: weights of fewer bits are unpacked, whatever the method."""


class Width(StrEnum):
    """What weights are multiplied as."""

    FULL = "full"
    FP8 = "fp8"
    INT8 = "int8"
    UNPACKED = "unpacked"
    """Stored in fewer bits, and made as wide as the inputs first."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """Matrix products of one kind in a whole step, all layers together."""

    weights_bytes: int
    flops_per_token: int
    experts: int = 0
    """Routed experts that share `weights_bytes` on this rank; 0 for weights that every token meets."""
    touched_share: float = 1.0
    """The share of all experts that one token passes through."""
    width: Width = Width.FULL


@dataclass(frozen=True, kw_only=True)
class Cache:
    """What attention layers of one kind read of the cache for each token that a request remembers, and compute."""

    bytes_per_token: int
    flops_per_pair: int
    """For each pair of a new and a remembered token, while a prompt is read."""
    window_tokens: int
    """0: all tokens are remembered."""
    state_bytes: int
    """Read and written for each request, however long it is."""


@dataclass(frozen=True, eq=False, kw_only=True)
class StepWork:
    """All of it, for the layers of all stages together. Told apart by identity: `step_work` remembers it."""

    products: tuple[Product, ...]
    head: Product
    """Of the tokens that are sampled only."""
    caches: tuple[Cache, ...]
    layers: int
    expert_layers: int
    reduced_layers: int
    """All-reduces over the tensor ranks: two a layer, as far as there are parts to reduce."""
    exchanged_layers: int
    """Layers that send tokens to experts of other ranks and back."""
    hidden_bytes: int
    """One token's hidden state."""


@lru_cache(maxsize=4096)
def step_work(model: ModelArchitecture, shape: Shape, kv_element_bytes: int) -> StepWork:
    """The work of one rank. Pure, and remembered: a fleet asks for the same few models again and again."""
    found: Counter[tuple[Part, int, float]] = Counter()
    flops: Counter[tuple[Part, int, float]] = Counter()
    for layer in model.layers:
        for each in layer.weights(model.hidden):
            if each.part is Part.VECTORS:
                continue
            key = _kind(each, shape)
            found[key] += layer.count * _bytes(model, each, shape)
            flops[key] += layer.count * 2 * _multiplied(each, shape)
    expert_layers = sum(each.count for each in model.layers if each.feed_forward.experts)
    return StepWork(
        products=tuple(_product(model, key, found[key], flops[key]) for key in found),
        head=_head(model, shape),
        caches=tuple(
            _cache(each.count, each.attention, shape.tensor, kv_element_bytes) for each in model.layers
        ),
        layers=model.layer_count,
        expert_layers=expert_layers,
        reduced_layers=sum(
            each.count * (bool(each.attention.heads) + _reduces(each.feed_forward.width, shape))
            for each in model.layers
        ),
        exchanged_layers=expert_layers if shape.data > 1 else 0,
        hidden_bytes=model.hidden * model.dtype_bytes,
    )


def _reduces(width: int, shape: Shape) -> bool:
    """A feed-forward part ends in an all-reduce, unless copies exchange its tokens instead."""
    return bool(width) or shape.data == 1


def _kind(each: Weights, shape: Shape) -> tuple[Part, int, float]:
    if not each.experts:
        # One kind for all that is read whole and multiplied alike: only whether it is quantised matters, by part.
        return each.part, 0, 1.0
    return each.part, ceil_div(each.experts, shape.expert), each.chosen / each.experts


def _bytes(model: ModelArchitecture, each: Weights, shape: Shape) -> int:
    elements = each.on_a_rank(tensor=shape.tensor, expert=shape.expert)
    if each.experts and shape.expert == 1:
        elements = ceil_div(each.elements, shape.expert_split)
    return elements * bits_hundredths(model, each.part) // BITS_HUNDREDTHS_PER_BYTE


def _multiplied(each: Weights, shape: Shape) -> int:
    """Weights that a copy's token is multiplied with on one rank, of experts a share: their ranks serve all copies."""
    if each.experts:
        return ceil_div(each.active_elements, shape.tensor)
    return each.on_a_rank(tensor=shape.tensor, expert=shape.expert)


def _product(model: ModelArchitecture, key: tuple[Part, int, float], size: int, flops: int) -> Product:
    part, experts, share = key
    return Product(
        weights_bytes=size,
        flops_per_token=flops,
        experts=experts,
        touched_share=share,
        width=_width(model, part),
    )


def _width(model: ModelArchitecture, part: Part) -> Width:
    quantization = model.quantization
    if quantization is None or part in quantization.kept_in_full:
        return Width.FULL
    if quantization.weight_bits_hundredths >= _EIGHT_BITS_FROM:
        if quantization.method in _FP8_METHODS:
            return Width.FP8
        if quantization.method in _INT8_METHODS:
            return Width.INT8
    return Width.UNPACKED


def _head(model: ModelArchitecture, shape: Shape) -> Product:
    if not model.has_head:
        return Product(weights_bytes=0, flops_per_token=0)
    elements = ceil_div(model.vocabulary * model.hidden, shape.tensor)
    part = Part.EMBEDDING if model.tied_embeddings else Part.HEAD
    size = elements * bits_hundredths(model, part) // BITS_HUNDREDTHS_PER_BYTE
    return Product(weights_bytes=size, flops_per_token=2 * elements)


def _cache(count: int, attention: Attention, tensor: int, kv_element_bytes: int) -> Cache:
    width = 0
    if attention.kind is not AttentionKind.LINEAR:
        width = attention.heads * (attention.head_dim + attention.value_dim) // tensor
    a_token = attention.kv_elements_per_token(tensor) * kv_element_bytes + attention.index_bytes_per_token
    return Cache(
        bytes_per_token=count * a_token,
        flops_per_pair=count * 2 * width,
        window_tokens=attention.window_tokens,
        state_bytes=count * 2 * ceil_div(attention.state_bytes_per_request, tensor),
    )
