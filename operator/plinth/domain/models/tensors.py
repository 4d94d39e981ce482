"""What a checkpoint's headers say of its tensors, which is more exact than any formula."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import NamedTuple

from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.gguf_keys import BLOCKS
from plinth.domain.models.tensor_names import part_of
from plinth.domain.models.weights import Part
from plinth.domain.quantities import ceil_div

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Weights of these types are loaded at the model's own width."""
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "U32": 4, "U16": 2}
"""Bytes of an element as safetensors names its types; all others take one."""
SCALES = re.compile(r"scale|absmax|zero|quant_map|nested")
"""Stay as they are stored."""
NOT_LOADED = re.compile(r"mtp\.|position_ids|inv_freq|rotary_emb|^cls\.|masked_bias")
GGUF_EMBEDDING = "token_embd.weight"
LAYER = re.compile(r"(?:layers|blk|h|blocks)\.(\d+)\.")


class TensorInfo(NamedTuple):
    """One tensor as its file's header describes it."""

    dtype: str
    """As safetensors (`BF16`, `F8_E4M3`, `I32`) or GGUF (`Q4_K`) names it."""
    shape: tuple[int, ...]


def sharpen(model: ModelArchitecture, tensors: Mapping[str, TensorInfo]) -> ModelArchitecture:
    """The model with what its parts really take, a head only where one is stored, and the towers counted."""
    is_gguf = GGUF_EMBEDDING in tensors
    loaded = {name: each for name, each in tensors.items() if _is_loaded(model, name)}
    stored: Counter[Part] = Counter()
    vision = 0
    for name, each in loaded.items():
        part = part_of(name)
        stored[part] += _loaded_bytes(name, each, None if is_gguf else model.dtype_bytes)
        vision += prod(each.shape) if part is Part.VISION else 0
    has_head = stored[Part.HEAD] > 0
    if model.tied_embeddings and has_head and not is_gguf:
        # The config ties them, so engines take the embedding for both and leave the stored head alone.
        has_head = False
        del stored[Part.HEAD]
    return replace(
        model,
        tied_embeddings=not has_head,
        vision_parameters=vision or model.vision_parameters,
        stored=tuple(sorted((part, count) for part, count in stored.items() if count)),
    )


def _is_loaded(model: ModelArchitecture, name: str) -> bool:
    """Not the layers that predict further tokens, nor what is computed anew."""
    layer = LAYER.search(name)
    beyond = layer is not None and int(layer.group(1)) >= model.layer_count
    return not NOT_LOADED.search(name) and (not beyond or part_of(name) is Part.VISION)


def _loaded_bytes(name: str, tensor: TensorInfo, float_bytes: int | None) -> int:
    """Floats take `float_bytes` each once loaded, or stay as they are stored where that is None."""
    elements = prod(tensor.shape)
    if tensor.dtype in FLOATS:
        stored = WIDTHS[tensor.dtype]
        return elements * (stored if float_bytes is None or SCALES.search(name) else float_bytes)
    if tensor.dtype in BLOCKS:
        block, size = BLOCKS[tensor.dtype]
        return ceil_div(elements, block) * size
    return elements * WIDTHS.get(tensor.dtype, 1)
