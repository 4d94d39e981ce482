"""Which shapes vLLM takes of a model, and why not the others: a sentence for each refusal.

The checks are those of vLLM 0.25.1: heads in `ModelConfig.verify_with_parallel_config`; KV heads in each model's own
file (models/llama.py, `assert self.total_num_kv_heads % tp_size == 0`); the width of feed-forward parts in
`distributed/utils.divide` (layers/linear.py) and `FusedMoEConfig`; quantised blocks in
`fp8_utils.validate_fp8_block_shape` and `verify_group_size_divides_partition`; experts in
`ModelConfig._verify_with_expert_parallelism`. The vocabulary is padded and refuses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.blocks import Attention, AttentionKind, Layers
from plinth.domain.models.weights import Part
from plinth.domain.sizing.shape import Shape

_BLOCK_METHODS = frozenset({"fp8", "modelopt", "fbgemm_fp8"})
"""Methods whose groups are square blocks, so outputs have to fit as well as inputs."""
_UNEVEN_METHODS = frozenset({"mxfp4"})
"""Methods whose groups are dealt out whole, to the last rank fewer (models/gpt_oss.py, `cdiv(intermediate_size_block,
tp_size)`), and filled up for the kernel (oracle/mxfp4.py, `mxfp4_round_up_hidden_size_and_intermediate_size`)."""


@lru_cache(maxsize=4096)
def find_obstacle(model: ModelArchitecture, shape: Shape) -> str | None:
    """Why vLLM would not start the model in this shape, or None. Pure, and remembered: each load asks anew."""
    return next(_obstacles(model, shape), None)


def _obstacles(model: ModelArchitecture, shape: Shape) -> Iterator[str]:
    yield from _head_obstacles(model, shape.tensor)
    yield from _width_obstacles(model, shape)
    yield from _group_obstacles(model, shape)
    yield from _pipeline_obstacles(model, shape.pipeline)
    yield from _expert_obstacles(model, shape)


def _head_obstacles(model: ModelArchitecture, tensor: int) -> Iterator[str]:
    for each in model.layers:
        attention = each.attention
        shares = attention.kind is AttentionKind.LATENT or not attention.kv_heads
        if not shares and attention.kv_heads % tensor and tensor % attention.kv_heads:
            yield f"{tensor} does not divide the model's {attention.kv_heads} KV heads"
        if attention.heads % tensor:
            yield f"{tensor} does not divide the model's {attention.heads} attention heads"


def _width_obstacles(model: ModelArchitecture, shape: Shape) -> Iterator[str]:
    for each in model.layers:
        part = each.feed_forward
        for width in (part.width, part.shared_width):
            if width % shape.tensor:
                yield f"{shape.tensor} does not divide the feed-forward width of {width}"
        if part.experts and part.expert_width % shape.expert_split:
            yield f"{shape.expert_split} does not divide the experts' width of {part.expert_width}"


def _group_obstacles(model: ModelArchitecture, shape: Shape) -> Iterator[str]:
    """Every rank must hold whole groups of weights that share a scale."""
    quantization = model.quantization
    if quantization is None or quantization.group_size == 0:
        return
    group, method = quantization.group_size, quantization.method
    if method in _UNEVEN_METHODS:
        return
    for each in model.layers:
        for part, width, ways in _split_widths(each, shape, both_ways=method in _BLOCK_METHODS):
            if ways > 1 and part not in quantization.kept_in_full and (width // ways) % group:
                yield f"{width} / {ways} does not hold whole groups of {group} {method} weights"


def _split_widths(layer: Layers, shape: Shape, *, both_ways: bool) -> Iterator[tuple[Part, int, int]]:
    """The widths along which a layer's matrices are split, and how often; `both_ways`: at their outputs too."""
    attention, part, tensor = layer.attention, layer.feed_forward, shape.tensor
    if attention.kind is not AttentionKind.LINEAR:
        yield Part.ATTENTION, attention.heads * attention.value_dim, tensor
        if both_ways and attention.kind is not AttentionKind.LATENT:
            yield from _projected_widths(attention, tensor)
    yield Part.FEED_FORWARD, part.width, tensor
    yield Part.SHARED_EXPERTS, part.shared_width, tensor
    yield Part.EXPERTS, part.expert_width, shape.expert_split


def _projected_widths(attention: Attention, tensor: int) -> Iterator[tuple[Part, int, int]]:
    yield Part.ATTENTION, attention.heads * attention.head_dim, tensor
    yield Part.ATTENTION, attention.kv_heads * attention.head_dim, min(tensor, attention.kv_heads)


def _pipeline_obstacles(model: ModelArchitecture, pipeline: int) -> Iterator[str]:
    if pipeline > model.layer_count:
        yield f"{pipeline} stages are more than the model's {model.layer_count} layers"
    # A layer without heads is one without attention, of whatever kind.
    if pipeline > 1 and any(
        each.attention.kind is AttentionKind.ENCODER and each.attention.heads for each in model.layers
    ):
        yield "vLLM splits no encoder into stages"


def _expert_obstacles(model: ModelArchitecture, shape: Shape) -> Iterator[str]:
    ranks = shape.tensor * shape.data
    if shape.expert > 1 and model.experts == 0:
        yield "the model has no experts to spread"
    elif shape.expert not in {1, ranks}:
        yield f"vLLM spreads experts over all {ranks} ranks of a stage or none, not over {shape.expert}"
    elif shape.expert > model.experts > 0:
        yield f"{shape.expert} ranks are more than the model's {model.experts} experts"
    if shape.data > 1 and model.experts == 0:
        yield "copies of a model without experts are replicas"
    if shape.tensor > 1 and model.quantization and model.quantization.method == "bitsandbytes":
        yield "vLLM does not split bitsandbytes weights (bitsandbytes_loader.py); stages would do"
