"""What is lost when weights are laid into an accelerator's memory: PyTorch deals out large pieces in steps.

vLLM loads weights with `max_split_size_mb=20` (`gpu_worker.load_model`), so a piece of at least 20 MiB is never cut
from a larger one, and takes whole steps of 2 MiB (PyTorch's `kRoundLarge`). Qwen2.5-32B's layer at TP2 has three
matrices that end one MiB before a step: 64 · 3 MiB = 192 MiB, and vLLM says 29.73 GiB where the weights have 29.54.
"""

from __future__ import annotations

from collections.abc import Iterator

from plinth.domain.models.architecture import BITS_HUNDREDTHS_PER_BYTE, ModelArchitecture
from plinth.domain.models.blocks import AttentionKind, Layers
from plinth.domain.models.weights import Part
from plinth.domain.quantities import MIB, ceil_div
from plinth.domain.sizing.shape import Shape

_WHOLE_FROM_BYTES = 20 * MIB
_STEP_BYTES = 2 * MIB


def bits_hundredths(model: ModelArchitecture, part: Part) -> int:
    """Bits that one weight of a part takes once loaded, in hundredths."""
    quantization = model.quantization
    if quantization is None or part in quantization.kept_in_full:
        return model.dtype_bytes * BITS_HUNDREDTHS_PER_BYTE
    return quantization.weight_bits_hundredths


def slack_bytes(model: ModelArchitecture, shape: Shape) -> int:
    """Memory of the fullest rank that lies unused behind the large matrices of its layers."""
    total = 0
    for each in model.layers:
        lost = sum(
            _lost(elements * bits_hundredths(model, part) // BITS_HUNDREDTHS_PER_BYTE)
            for part, elements in matrices(each, model.hidden, shape)
        )
        total += ceil_div(each.count, shape.pipeline) * lost
    return total


def _lost(size: int) -> int:
    return -size % _STEP_BYTES if size >= _WHOLE_FROM_BYTES else 0


def matrices(layer: Layers, hidden: int, shape: Shape) -> Iterator[tuple[Part, int]]:
    """The matrices of one layer as vLLM lays them down, merged where it merges them: elements on one rank."""
    attention, part, tensor = layer.attention, layer.feed_forward, shape.tensor
    if attention.kind not in {AttentionKind.LATENT, AttentionKind.LINEAR} and attention.heads:
        queries = attention.heads * attention.head_dim // tensor
        kv = (
            attention.kv_heads * (attention.head_dim + attention.value_dim) // min(tensor, attention.kv_heads)
        )
        yield Part.ATTENTION, hidden * (queries + kv)
        yield Part.ATTENTION, hidden * attention.heads * attention.value_dim // tensor
    inner = 2 if part.gated else 1
    for kind, width in ((Part.FEED_FORWARD, part.width), (Part.SHARED_EXPERTS, part.shared_width)):
        yield kind, inner * hidden * width // tensor
        yield kind, hidden * width // tensor
    if part.experts:
        held = ceil_div(part.experts, shape.expert)
        yield Part.EXPERTS, held * inner * hidden * part.expert_width // shape.expert_split
        yield Part.EXPERTS, held * hidden * part.expert_width // shape.expert_split
