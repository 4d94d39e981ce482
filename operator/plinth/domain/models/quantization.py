"""How a model's weights are stored: at their own width, or in fewer bits with scales beside them."""

from __future__ import annotations

from dataclasses import dataclass

from plinth.domain.models.weights import Part

ALWAYS_IN_FULL = frozenset({Part.VECTORS, Part.ROUTER, Part.VISION})
"""Parts that no method of the engines' touches unless the checkpoint's own tensors say so."""


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """The method, and which parts it leaves alone."""

    method: str
    """As config.json names it: `gptq`, `awq`, `fp8`, `compressed-tensors`, `bitsandbytes`, `mxfp4`, `int8`, …; `gguf`."""
    weight_bits_hundredths: int
    """Bits of a quantised weight with its share of scales and zeros: 416 is 4.16 bits."""
    group_size: int = 0
    """Weights that share a scale, along the input; 0 for a scale a channel or a tensor."""
    kept_in_full: frozenset[Part] = ALWAYS_IN_FULL
    """The parts that stay at the model's dtype."""
