"""What a checkpoint's headers say of a model, which is more exact than any formula; the last step of `reading`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from plinth.api.v1alpha1 import Task
from plinth.domain.models.architecture import BITS_HUNDREDTHS_PER_BYTE, ModelArchitecture
from plinth.domain.models.headers import TensorGroup
from plinth.domain.models.quantization import Quantization
from plinth.domain.models.weights import Part
from plinth.domain.quantities import ceil_div

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Weights of these types are loaded at the model's own width."""
EIGHT_BITS = frozenset({"I8", "F8_E4M3", "F8_E5M2"})
"""Quantised, and an element is a weight still; other types of safetensors hold several weights in one element."""


@dataclass(kw_only=True)
class _Told:
    """What the headers tell of each part."""

    weights: Counter[Part] = field(default_factory=Counter)
    """How many; of packed ones none."""
    stored_bytes: Counter[Part] = field(default_factory=Counter)
    """What a part takes if it is quantised: floats at the model's width, all else as it is stored."""
    quantised: set[Part] = field(default_factory=set)
    packed: set[Part] = field(default_factory=set)
    """The parts some weights of which are packed, so that nobody can count them."""

    def forget(self, part: Part) -> None:
        """As if the checkpoint did not hold it."""
        for counts in (self.weights, self.stored_bytes):
            counts.pop(part, None)
        for parts in (self.quantised, self.packed):
            parts.discard(part)


def sharpen(
    model: ModelArchitecture, groups: Iterable[TensorGroup], *, is_gguf: bool = False
) -> ModelArchitecture:
    """The model as its tensors show it: every weight counted, a head only where one is loaded, what is quantised."""
    told = _gather(model, groups, is_gguf=is_gguf)
    tied = _is_tied(model, has_head=Part.HEAD in told.stored_bytes, is_gguf=is_gguf)
    if tied or model.task is not Task.GENERATE:
        told.forget(Part.HEAD)
    known = replace(model, tied_embeddings=tied)
    for part in told.stored_bytes.keys() - known.parts - {Part.VISION}:
        # The config describes no place for it. As the towers: every stage holds it, split as the rest is.
        told.weights[Part.VISION] += told.weights[part] or ceil_div(
            told.stored_bytes[part], model.dtype_bytes
        )
        told.forget(part)
    quantization = _quantization(model.quantization, told, is_gguf=is_gguf)
    # A part of which there are no tensors is not there, or goes by the name of another: it must not count twice.
    absent = dict.fromkeys(known.parts - told.stored_bytes.keys() - {Part.VISION}, 0)
    counted = {part: count for part, count in told.weights.items() if part not in told.packed} | absent
    stored = {part: told.stored_bytes[part] for part in told.quantised} | absent
    return replace(
        known,
        vision_parameters=counted.get(Part.VISION) or model.vision_parameters,
        quantization=quantization,
        counted=tuple(sorted(counted.items())),
        stored=tuple(sorted(stored.items())) if quantization is not None else (),
    )


def _gather(model: ModelArchitecture, groups: Iterable[TensorGroup], *, is_gguf: bool) -> _Told:
    told = _Told()
    for each in groups:
        # Layers beyond the model's own predict further tokens, and are not loaded.
        layers = min(each.layers, model.layer_count - max(0, each.first_layer))
        if layers <= 0:
            continue
        is_float = each.dtype in FLOATS
        if each.is_scale or is_gguf or not is_float:
            told.stored_bytes[each.part] += layers * each.stored_bytes
        else:
            told.stored_bytes[each.part] += layers * each.elements * model.dtype_bytes
        if each.is_scale:
            continue
        if is_gguf or not is_float:
            told.quantised.add(each.part)
        if is_gguf or is_float or each.dtype in EIGHT_BITS:
            told.weights[each.part] += layers * each.elements
        else:
            told.packed.add(each.part)
    return told


def _is_tied(model: ModelArchitecture, *, has_head: bool, is_gguf: bool) -> bool:
    """Whether the embedding is the head as well. GGUF does not state it: such a file has no head.

    Where a config ties them, engines take the embedding for both and leave a stored head alone. A model that generates
    has a head, so where none is stored the embedding must be it.
    """
    if is_gguf:
        return not has_head
    return model.tied_embeddings or (model.task is Task.GENERATE and not has_head)


def _quantization(stated: Quantization | None, told: _Told, *, is_gguf: bool) -> Quantization | None:
    """The stated method on the parts that really are quantised; of GGUF the file's own bits.

    Weights of fewer bits for which no method is stated are made as wide as the model when they are loaded.
    """
    if is_gguf:
        bits = told.stored_bytes.total() * BITS_HUNDREDTHS_PER_BYTE
        return Quantization(
            method="gguf",
            weight_bits_hundredths=ceil_div(bits, max(1, told.weights.total())),
            kept_in_full=frozenset(),
        )
    if stated is None:
        return None
    kept = (stated.kept_in_full | told.stored_bytes.keys()) - told.quantised
    return replace(stated, kept_in_full=frozenset(kept))
