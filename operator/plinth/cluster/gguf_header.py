"""The head of a GGUF file: its metadata without its arrays of tokens, and what its tensors are, without their weights.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. A library reads
the whole file and every token (seconds, for a large vocabulary); planning needs some twenty numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from math import prod
from typing import BinaryIO, NamedTuple

from plinth.domain.models.gguf_keys import BLOCKS, TENSOR_TYPES
from plinth.domain.models.headers import StoredTensor
from plinth.domain.quantities import ceil_div

MAGIC = b"GGUF"
MAX_ENTRIES = 65_536
MAX_TENSORS = 65_536
MAX_DIMENSIONS = 4
MAX_STRING_BYTES = 16 * 2**20
STRING, ARRAY = 8, 9
SCALARS: dict[int, str] = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}


class GGUFError(ValueError):
    """The file is not GGUF, or is cut or corrupt; the message says where."""


class GGUFMetadata(NamedTuple):
    """What stands before the list of tensors."""

    entries: dict[str, object]
    """All scalar and string entries by key; of an array only its length, under the key plus `.length`.

    Short arrays of numbers (per-layer head counts) are kept whole.
    """
    tensors: int
    """How many tensors the file holds."""


def read_gguf_metadata(stream: BinaryIO) -> GGUFMetadata:
    """The metadata; the stream then stands before the list of tensors. Raises GGUFError."""
    if stream.read(4) != MAGIC:
        raise GGUFError("not a GGUF file: its first four bytes are not GGUF")
    version = _scalar(stream, "<I")
    if version not in {2, 3}:
        raise GGUFError(f"GGUF version {version} is not known; 2 and 3 are")
    tensors = int(_scalar(stream, "<Q"))
    entries = int(_scalar(stream, "<Q"))
    if entries > MAX_ENTRIES:
        raise GGUFError(f"{entries} metadata entries are more than the {MAX_ENTRIES} that a sound file has")
    found: dict[str, object] = {}
    for _ in range(entries):
        key = _string(stream)
        kind = int(_scalar(stream, "<I"))
        if kind == ARRAY:
            _read_array(stream, key, found)
        else:
            found[key] = _value(stream, kind)
    return GGUFMetadata(found, tensors)


def read_gguf_tensors(stream: BinaryIO, count: int, file_bytes: int) -> Iterator[StoredTensor]:
    """The tensors of a file of this size, from a stream that has just given its metadata. Raises GGUFError."""
    total = 0
    if count > MAX_TENSORS:
        raise GGUFError(f"{count} tensors are more than the {MAX_TENSORS} that a sound file has")
    for _ in range(count):
        name = _string(stream)
        dimensions = int(_scalar(stream, "<I"))
        if dimensions > MAX_DIMENSIONS:
            raise GGUFError(f"{name} has {dimensions} dimensions; {MAX_DIMENSIONS} are the most")
        elements = prod(int(_scalar(stream, "<Q")) for _ in range(dimensions))
        kind = int(_scalar(stream, "<I"))
        _scalar(stream, "<Q")  # where its weights stand
        if kind not in TENSOR_TYPES:
            raise GGUFError(f"{name} is of the unknown tensor type {kind}")
        dtype = TENSOR_TYPES[kind]
        block, size = BLOCKS[dtype]
        stored = ceil_div(elements, block) * size
        total += stored
        if total > file_bytes:
            raise GGUFError("its list of tensors states more than the file can hold")
        yield StoredTensor(name, dtype, elements, stored)


def _read_array(stream: BinaryIO, key: str, found: dict[str, object]) -> None:
    kind = int(_scalar(stream, "<I"))
    length = int(_scalar(stream, "<Q"))
    found[f"{key}.length"] = length
    if kind == STRING:
        for _ in range(length):
            _skip(stream, int(_scalar(stream, "<Q")))
    elif kind in SCALARS and length <= MAX_ENTRIES // 64:
        found[key] = [_scalar(stream, SCALARS[kind]) for _ in range(length)]
    elif kind in SCALARS:
        _skip(stream, length * struct.calcsize(SCALARS[kind]))
    else:
        raise GGUFError(f"{key} is an array of the unknown type {kind}")


def _value(stream: BinaryIO, kind: int) -> object:
    if kind == STRING:
        return _string(stream)
    if kind not in SCALARS:
        raise GGUFError(f"unknown metadata type {kind}")
    return _scalar(stream, SCALARS[kind])


def _scalar(stream: BinaryIO, layout: str) -> int | float:
    size = struct.calcsize(layout)
    data = stream.read(size)
    if len(data) != size:
        raise GGUFError("the file ends within its metadata")
    value: int | float = struct.unpack(layout, data)[0]
    return value


def _string(stream: BinaryIO) -> str:
    length = int(_scalar(stream, "<Q"))
    if length > MAX_STRING_BYTES:
        raise GGUFError(
            f"a metadata string of {length} bytes is longer than the {MAX_STRING_BYTES} of a sound file"
        )
    data = stream.read(length)
    if len(data) != length:
        raise GGUFError("the file ends within its metadata")
    return data.decode(errors="replace")


def _skip(stream: BinaryIO, count: int) -> None:
    stream.seek(count, 1)
