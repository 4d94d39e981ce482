"""What is kept of a checkpoint's headers: some ten groups of like tensors, where a large model has 100,000 tensors.

The reader of artifacts makes the groups and carries them with the config; `tensors.sharpen` reads them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from plinth.domain.models.tensor_names import part_of
from plinth.domain.models.weights import Part

MOST_GROUPS = 2048
"""A model of 100 layers that are all quantised differently has 500."""
NO_LAYER = -1
SCALES = re.compile(r"scale|absmax|zero|quant_map|nested|g_idx|weight_shape|scb$", re.IGNORECASE)
"""What is stored beside packed weights."""
NOT_LOADED = re.compile(
    r"mtp\.|position_ids|inv_freq|rotary_emb|rope_freqs|^cls\.|\.attn(ention)?\.(masked_)?bias$"
)
"""Layers that predict further tokens, masks, and what is computed anew."""
LAYER = re.compile(r"(?:layers|blk|h|blocks)\.(\d+)\.")
NUMBER = re.compile(r"\.\d+\.")


class StoredTensor(NamedTuple):
    """One tensor as its file's header describes it."""

    name: str
    dtype: str
    """As safetensors (`BF16`, `F8_E4M3`, `I32`) or GGUF (`Q4_K`) names it."""
    elements: int
    stored_bytes: int


class TensorGroup(NamedTuple):
    """Tensors of one part of a model that are stored alike, in layers that follow each other and are alike in it."""

    part: Part
    dtype: str
    is_scale: bool
    """Scales and zeros of packed weights, and not weights."""
    first_layer: int
    """`NO_LAYER` for what lies outside the layers; a tower's own layers do not count."""
    layers: int
    elements: int
    """Of one layer."""
    stored_bytes: int
    """The same."""


class _Kind(NamedTuple):
    part: Part
    dtype: str
    is_scale: bool
    layer: int


def group_tensors(tensors: Iterable[StoredTensor]) -> tuple[TensorGroup, ...]:
    """The groups of all tensors that engines load. Raises ValueError where no sound model has so many."""
    elements: Counter[_Kind] = Counter()
    stored: Counter[_Kind] = Counter()
    for each in tensors:
        kind = _kind_of(each)
        if kind is None:
            continue
        elements[kind] += each.elements
        stored[kind] += each.stored_bytes
        if len(elements) > MOST_GROUPS * 8:
            raise ValueError("its tensors differ more than those of any model")
    groups: list[TensorGroup] = []
    for kind in sorted(elements):
        group = TensorGroup(*kind, layers=1, elements=elements[kind], stored_bytes=stored[kind])
        if groups and _continues(groups[-1], group):
            groups[-1] = groups[-1]._replace(layers=groups[-1].layers + 1)
        else:
            groups.append(group)
    if len(groups) > MOST_GROUPS:
        raise ValueError("its tensors differ more than those of any model")
    return tuple(groups)


def _kind_of(tensor: StoredTensor) -> _Kind | None:
    """None for what is not loaded."""
    traits = _read_name(NUMBER.sub(".0.", tensor.name))
    if traits is None:
        return None
    layer = LAYER.search(tensor.name) if traits.in_layer else None
    return _Kind(traits.part, tensor.dtype, traits.is_scale, int(layer.group(1)) if layer else NO_LAYER)


class _Traits(NamedTuple):
    part: Part
    is_scale: bool
    in_layer: bool


@lru_cache(maxsize=4096)
def _read_name(name: str) -> _Traits | None:
    """What a name says whatever the numbers in it. Remembered: 100,000 tensors have some ten such names."""
    if NOT_LOADED.search(name):
        return None
    part = part_of(name)
    return _Traits(part, bool(SCALES.search(name)), part is not Part.VISION and bool(LAYER.search(name)))


def _continues(before: TensorGroup, after: TensorGroup) -> bool:
    """Whether the later group is the next layer of the same."""
    if before.first_layer == NO_LAYER:
        return False
    return before._replace(first_layer=before.first_layer + before.layers, layers=1) == after
