"""The `quantization_config` of a config.json, in the words of each method.

Bits of a weight count its scales and zeros: GPTQ and AWQ keep a 16-bit scale and a zero as wide as a weight for each
group; bitsandbytes NF4 a 32-bit scale for 64 weights, itself in 8 bits when quantised twice (arXiv 2305.14314); MXFP4
an 8-bit scale for 32 (OCP Microscaling Formats 1.0), NVFP4 one for 16; block FP8 a 32-bit scale for 128 · 128.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from plinth.api.v1alpha1 import Reason
from plinth.domain.fleet import ArtifactRefusal
from plinth.domain.models.keys import Keys
from plinth.domain.models.quantization import ALWAYS_IN_FULL, Quantization
from plinth.domain.models.tensor_names import part_of
from plinth.domain.models.weights import Part

NF4_HUNDREDTHS = 450
NF4_TWICE_HUNDREDTHS = 413
IGNORED = ("modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules", "llm_int8_skip_modules")
"""Names under which the methods list what they leave alone."""

FLOAT4_BITS = 4


class Width(NamedTuple):
    """How wide a stored weight is."""

    bits_hundredths: int
    group_size: int


EIGHT_BITS = Width(800, 0)
NVFP4 = Width(450, 16)


def read_quantization(found: Mapping[str, object], layer_count: int) -> Quantization | ArtifactRefusal | None:
    """How the weights are stored; None at full width, a refusal where the method or its bits are not known."""
    if not found:
        return None
    own = found.get("quantization")
    # ModelOpt's own file names no method and has all else one level deeper.
    keys = Keys({"quant_method": "modelopt", **own} if isinstance(own, Mapping) else found, {})
    method = keys.word("quant_method") or keys.word("quant_algo").lower() or "unknown"
    width = METHODS.get(method, _grouped)(keys)
    if width is None:
        message = f"the model's quantization_config states no bits for the method {method}"
        return ArtifactRefusal(reason=Reason.MODEL_UNREADABLE, message=message)
    ignored = [name for entry in IGNORED for name in keys.words(entry)]
    kept = ALWAYS_IN_FULL | {Part.EMBEDDING} | kept_parts(ignored, layer_count)
    if keys.flag("lm_head") is not True:
        kept |= {Part.HEAD}
    return Quantization(
        method=method,
        weight_bits_hundredths=width.bits_hundredths,
        group_size=width.group_size,
        kept_in_full=kept,
    )


def kept_parts(ignored: list[str], layer_count: int) -> frozenset[Part]:
    """The parts that a list of modules leaves alone: named without a layer, or in at least half of the layers."""
    layers: dict[Part, set[str]] = {}
    for name in ignored:
        part = part_of(name.removeprefix("re:").replace("\\", "").replace(".*", "."))
        numbers = re.findall(r"\.(\d+)\.", name)
        layers.setdefault(part, set()).add(numbers[0] if numbers else "")
    return frozenset(part for part, found in layers.items() if "" in found or 2 * len(found) >= layer_count)


def _grouped(keys: Keys) -> Width | None:
    """GPTQ, AWQ and those that speak like them."""
    bits = keys.number("bits") or keys.number("w_bit") or keys.number("nbits")
    group = keys.number("group_size") or keys.number("q_group_size")
    return Width(_with_scales(bits, group, beside=16 + bits), group) if bits else None


def _fp8(keys: Keys) -> Width:
    block = keys.numbers("weight_block_size")
    if len(block) > 1:
        return Width(_with_scales(8, block[0] * block[1], beside=32), block[0])
    return EIGHT_BITS


def _bitsandbytes(keys: Keys) -> Width:
    if keys.flag("load_in_8bit"):
        return EIGHT_BITS
    return Width(NF4_TWICE_HUNDREDTHS if keys.flag("bnb_4bit_use_double_quant") else NF4_HUNDREDTHS, 64)


def _compressed_tensors(keys: Keys) -> Width | None:
    """The first group's weights; other groups differ in their targets, hardly ever in their bits."""
    for group in keys.section("config_groups").values():
        weights = Keys(group, {}).section("weights") if isinstance(group, Mapping) else {}
        stated = Keys(weights, {})
        bits = stated.number("num_bits")
        if bits:
            size = stated.number("group_size")
            scale = 8 if bits == FLOAT4_BITS and stated.word("type") == "float" else 16
            zero = 0 if stated.flag("symmetric") is not False else bits
            return Width(_with_scales(bits, size, beside=scale + zero), size)
    return None


def _modelopt(keys: Keys) -> Width | None:
    """NVIDIA's names: `FP8`, `NVFP4`, `MXFP8`, `W4A16_AWQ`."""
    algorithm = keys.word("quant_algo").upper()
    if "FP4" in algorithm:
        return NVFP4
    return EIGHT_BITS if "FP8" in algorithm else _compressed_tensors(keys)


def _with_scales(bits: int, group: int, *, beside: int) -> int:
    """Bits in hundredths, with so many bits beside each group; without groups the scales are too few to count."""
    return 100 * bits + (round(100 * beside / group) if group > 0 else 0)


METHODS: Mapping[str, Callable[[Keys], Width | None]] = {
    "fp8": _fp8,
    "fbgemm_fp8": lambda _: EIGHT_BITS,
    "int8": lambda _: EIGHT_BITS,
    "experts_int8": lambda _: EIGHT_BITS,
    "mxfp4": lambda _: Width(425, 32),
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "modelopt_fp4": lambda _: NVFP4,
}
