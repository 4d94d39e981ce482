"""The header of a safetensors file: names, types and sizes of its tensors, without one of their bytes.

Format: https://huggingface.co/docs/safetensors/index#format: eight bytes of length, then so much JSON.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from math import prod
from typing import Annotated, NamedTuple

import msgspec

from plinth.domain.models.headers import StoredTensor

LENGTH_BYTES = 8
METADATA = "__metadata__"
MAX_TENSORS = 65_536
MOST_ELEMENTS_PER_BYTE = 8

_Name = Annotated[str, msgspec.Meta(max_length=16)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class SafetensorsError(ValueError):
    """The file is not safetensors, or is cut or corrupt; the message says where."""


class _Offsets(NamedTuple):
    begin: _Count
    end: _Count


class _Entry(msgspec.Struct):
    """One tensor. `__metadata__` stands among them, with entries of its own and none of these."""

    dtype: _Name = ""
    shape: Annotated[list[_Count], msgspec.Meta(max_length=16)] = []
    data_offsets: _Offsets = _Offsets(0, 0)


def header_length(start: bytes) -> int:
    """Bytes of the JSON that follows the first eight. Raises SafetensorsError."""
    if len(start) < LENGTH_BYTES:
        raise SafetensorsError("the file is shorter than the length of its header")
    length: int = struct.unpack_from("<Q", start)[0]
    return length


def parse_header(text: bytes, file_bytes: int) -> Iterator[StoredTensor]:
    """The tensors of a file of this size; what it states beyond that is made up. Raises SafetensorsError."""
    if text.count(b"{") > MAX_TENSORS + 2:
        raise SafetensorsError(f"its header has more than the {MAX_TENSORS} tensors of a sound file")
    try:
        found = msgspec.json.decode(text, type=dict[str, _Entry])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:  # the second: of a key
        raise SafetensorsError(f"its header cannot be read: {error}") from None
    total = 0
    for name, each in found.items():
        if name == METADATA:
            continue
        elements, stored = prod(each.shape), each.data_offsets.end - each.data_offsets.begin
        total += stored
        if stored < 0 or total > file_bytes or elements > MOST_ELEMENTS_PER_BYTE * stored:
            raise SafetensorsError("its header states tensors that the file cannot hold")
        yield StoredTensor(name, each.dtype, elements, stored)
