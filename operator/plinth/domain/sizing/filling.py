"""What kernels add to weights of four bits: tiles filled up, zero points made wide.

For MXFP4 each rank's share of the experts is filled up to the kernel's tiles. vLLM 0.25.1 takes the kernel by the accelerator (`fused_moe/oracle/mxfp4.py`, `_get_priority_backends_for_gpt_oss`) and
fills up as `mxfp4_round_up_hidden_size_and_intermediate_size` says there. Triton's own layout for Hopper goes on to
256 along what is summed: gpt-oss-120b, whose widths are 2880, takes 64.38 GiB of an H100, of which 60.9 are weights
(https://github.com/vllm-project/vllm/issues/33155).

AWQ runs on Machete where there is Hopper (kernels/linear/mixed_precision/machete.py), which keeps a group's zero point
multiplied by its scale, in 16 bits instead of four.
"""

from __future__ import annotations

from typing import NamedTuple

from plinth.domain.accelerators.catalogue import Accelerator
from plinth.domain.models.architecture import BITS_HUNDREDTHS_PER_BYTE, ModelArchitecture
from plinth.domain.models.blocks import FeedForward
from plinth.domain.models.quantization import Quantization
from plinth.domain.models.weights import Part
from plinth.domain.quantities import ceil_div
from plinth.domain.sizing.allocation import bits_hundredths, matrices
from plinth.domain.sizing.shape import Shape

_METHOD = "mxfp4"
_ZERO_POINTED = "awq"
_HOPPER = 90
_WIDER_BITS = 12
_BLOCK = 32
"""Weights that share a scale: ranks get whole blocks, the last one fewer (models/gpt_oss.py)."""
_HIDDEN_TILE = 256
"""All kernels fill the model's width up to this where it is summed over."""


class _Tiles(NamedTuple):
    """To what multiples a kernel fills up."""

    width: int
    """An expert's width, where it is what comes out."""
    summed_width: int
    """An expert's width, where it is summed over."""
    hidden: int
    """The model's width, where it is what comes out."""


_TRITON = _Tiles(width=64, summed_width=256, hidden=1)
_MARLIN = _Tiles(width=128, summed_width=128, hidden=256)
_WIDE = _Tiles(width=256, summed_width=256, hidden=256)
"""TRT-LLM's on data center Blackwell, and whatever runs on ROCm."""
_OF_GENERATION = {0: _WIDE, 9: _TRITON, 10: _WIDE}
"""By the first number of the compute capability, 0 where it is not CUDA; all others take Marlin."""


def filling_bytes(model: ModelArchitecture, shape: Shape, accelerator: Accelerator) -> int:
    """What the fullest rank of a shape holds beside its weights for the sake of a kernel."""
    quantization = model.quantization
    if quantization is None:
        return 0
    if quantization.method == _ZERO_POINTED and accelerator.compute_capability == _HOPPER:
        return _wider_zero_points(model, quantization, shape)
    return _filled_tiles(model, shape, accelerator) if quantization.method == _METHOD else 0


def _wider_zero_points(model: ModelArchitecture, quantization: Quantization, shape: Shape) -> int:
    elements = sum(
        ceil_div(each.count, shape.pipeline) * size
        for each in model.layers
        for part, size in matrices(each, model.hidden, shape)
        if part not in quantization.kept_in_full
    )
    return elements // max(1, quantization.group_size) * _WIDER_BITS // 8


def _filled_tiles(model: ModelArchitecture, shape: Shape, accelerator: Accelerator) -> int:
    tiles = _OF_GENERATION.get(accelerator.compute_capability // 10, _MARLIN)
    elements = sum(
        ceil_div(each.count, shape.pipeline) * _filling(each.feed_forward, model.hidden, shape, tiles)
        for each in model.layers
        if each.feed_forward.experts
    )
    return elements * bits_hundredths(model, Part.EXPERTS) // BITS_HUNDREDTHS_PER_BYTE


def _filling(part: FeedForward, hidden: int, shape: Shape, tiles: _Tiles) -> int:
    """Elements of one layer's experts on one rank that are there only to fill tiles."""
    width = ceil_div(ceil_div(part.expert_width, _BLOCK), shape.expert_split) * _BLOCK
    inner = 2 if part.gated else 1
    into = inner * _up(width, tiles.width) * _up(hidden, _HIDDEN_TILE)
    out = _up(hidden, tiles.hidden) * _up(width, tiles.summed_width)
    weights = (inner + 1) * hidden * part.expert_width // shape.expert_split
    return ceil_div(part.experts, shape.expert) * (into + out - weights)


def _up(size: int, multiple: int) -> int:
    return ceil_div(size, multiple) * multiple
