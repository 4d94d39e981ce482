"""Safetensors files made up for tests: a true header, and zeros for weights."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import prod

WIDTHS = {"F32": 4, "I32": 4, "BF16": 2, "F8_E4M3": 1}
Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Type and shape of each tensor, by its name."""


def make_safetensors(tensors: Tensors, *, padding: int = 0) -> bytes:
    """A file with these tensors and so many blanks behind its header."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + prod(shape) * WIDTHS[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    return raw_safetensors(json.dumps(header).encode() + b" " * padding) + bytes(end)


def raw_safetensors(header: bytes) -> bytes:
    """The start of a file, with whatever is given for a header."""
    return struct.pack("<Q", len(header)) + header


def make_sharded(shards: Mapping[str, Tensors]) -> dict[str, bytes]:
    """The files of a sharded model, its index among them."""
    files = {name: make_safetensors(tensors) for name, tensors in shards.items()}
    index = {"weight_map": {tensor: name for name, tensors in shards.items() for tensor in tensors}}
    return {**files, "model.safetensors.index.json": json.dumps(index).encode()}
