"""The safetensors header reader, on sound headers and on ones made to do harm."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plinth.cluster.safetensors_header import (
    LENGTH_BYTES,
    MAX_TENSORS,
    SafetensorsError,
    header_length,
    parse_header,
)
from plinth.domain.models.headers import StoredTensor
from plinth.tests.cluster.checkpoints import make_safetensors


def tensors_of(header: bytes, file_bytes: int = 1000) -> list[StoredTensor]:
    return list(parse_header(header, file_bytes))


def test_tensors_are_told_with_their_elements_and_bytes() -> None:
    file = make_safetensors({"a.weight": ("BF16", (2, 3)), "b.qweight": ("I32", (4,)), "c": ("F32", ())})
    length = header_length(file[:LENGTH_BYTES])
    assert tensors_of(file[LENGTH_BYTES : LENGTH_BYTES + length], len(file)) == [
        StoredTensor("a.weight", "BF16", 6, 12),
        StoredTensor("b.qweight", "I32", 4, 16),
        StoredTensor("c", "F32", 1, 4),
    ]


def entry(dtype: object = "BF16", shape: object = (1,), data_offsets: object = (0, 2)) -> bytes:
    return json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": data_offsets}}).encode()


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"{",
        b'{"a":' * 100_000,
        entry(dtype="x" * 17),
        entry(shape=[-1]),
        entry(shape=[2**70]),
        entry(shape=[1] * 17),
        entry(shape=[2**60], data_offsets=(0, 2)),
        entry(data_offsets=(2, 0)),
        entry(data_offsets=(0, 1001)),
        entry(data_offsets=(0,)),
        entry(data_offsets="0 2"),
    ],
)
def test_a_header_that_states_what_cannot_be_is_refused(header: bytes) -> None:
    with pytest.raises(SafetensorsError, match="its header"):
        tensors_of(header)


def test_tensors_that_share_bytes_cannot_add_up_to_more_than_the_file() -> None:
    one = {"dtype": "BF16", "shape": [400], "data_offsets": [0, 800]}
    with pytest.raises(SafetensorsError, match="cannot hold"):
        tensors_of(json.dumps({"a": one, "b": one}).encode())


def test_more_tensors_than_any_file_has_are_refused_before_they_are_read() -> None:
    many = b"{" + b",".join(b'"%d":{}' % number for number in range(MAX_TENSORS + 2)) + b"}"
    with pytest.raises(SafetensorsError, match="more than the 65536 tensors"):
        tensors_of(many)


def test_a_file_without_room_for_a_length_is_refused() -> None:
    with pytest.raises(SafetensorsError, match="shorter"):
        header_length(b"\0" * 7)


@given(st.binary(max_size=200))
@example(b' \x80"' + bytes(14))  # a key that is not UTF-8
def test_scrambled_headers_only_ever_raise_safetensors_errors(noise: bytes) -> None:
    for header in (noise, entry()[: len(noise)] + noise):
        try:
            tensors_of(header)
        except SafetensorsError:
            continue
