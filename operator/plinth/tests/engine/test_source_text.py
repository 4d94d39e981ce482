from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.fleet import ModelFormat
from plinth.domain.sources import Source, SourceScheme, detect_format, parse_source, select_files

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
QUANTS = ["tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"]
PARTS = ["big-00001-of-00003.gguf", "big-00002-of-00003.gguf", "big-00003-of-00003.gguf"]


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf://org/name", Source(scheme=SourceScheme.HF, origin="org/name")),
        ("hf://org/name@main", Source(scheme=SourceScheme.HF, origin="org/name", revision="main")),
        ("hf://org/name@refs/pr/7", Source(scheme=SourceScheme.HF, origin="org/name", revision="refs/pr/7")),
        ("hf://org/name/q4.gguf", Source(scheme=SourceScheme.HF, origin="org/name", file="q4.gguf")),
        (
            "hf://org/name/sub/q4.gguf@v1",
            Source(scheme=SourceScheme.HF, origin="org/name", file="sub/q4.gguf", revision="v1"),
        ),
        ("file:///models/a", Source(scheme=SourceScheme.FILE, origin="/models/a")),
        ("file:///models/a/", Source(scheme=SourceScheme.FILE, origin="/models/a")),
        ("pvc://claim", Source(scheme=SourceScheme.VOLUME, origin="claim")),
        ("pvc://a.b/", Source(scheme=SourceScheme.VOLUME, origin="a.b")),
        ("pvc://claim/sub/m/", Source(scheme=SourceScheme.VOLUME, origin="claim", path="sub/m")),
        ("package://module", Source(scheme=SourceScheme.PACKAGE, origin="module")),
        (
            "package://module/data/q4.gguf",
            Source(scheme=SourceScheme.PACKAGE, origin="module", file="data/q4.gguf"),
        ),
    ],
)
def test_a_source_is_taken_apart(text: str, source: Source) -> None:
    assert parse_source(text) == source


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3://bucket/key", "s3:// is not supported; use hf://, file://, pvc:// or package://"),
        (
            "org/name",
            "'org/name' has no scheme; write hf://org/name, file:///path, pvc://claim/path or package://module/file",
        ),
        ("hf://", "'hf://' names nothing after hf://"),
        (
            "hf://name",
            "hf://name must be hf://org/name, hf://org/name@revision or hf://org/name/file.gguf",
        ),
        ("hf://org/name@", "hf://org/name@ has an empty revision after @; name one or drop the @"),
        (
            "hf://org/name@v1/q4.gguf",
            "hf://org/name@v1/q4.gguf: the revision comes last; write hf://org/name/file.gguf@revision",
        ),
        (
            "file://models/a",
            "file://models/a must be an absolute path with three slashes: file:///models/a",
        ),
        ("file:///a/../b", "file:///a/../b must not contain '..'; write the path it means"),
        (
            "pvc:///models/a",
            "pvc:///models/a: '' is no name of a PersistentVolumeClaim; write pvc://claim/path",
        ),
        (
            "pvc://Claim_1/a",
            "pvc://Claim_1/a: 'Claim_1' is no name of a PersistentVolumeClaim; write pvc://claim/path",
        ),
        (
            "pvc://claim/../b",
            "pvc://claim/../b: '../b' must be a plain path inside it, without '..' or empty parts",
        ),
        ("package://a.b/c", "package://a.b/c: 'a.b' is not a top-level Python module's name"),
        (
            "package://a/../c",
            "package://a/../c: '../c' must be a plain path inside it, without '..' or empty parts",
        ),
    ],
)
def test_a_source_that_cannot_work_is_refused_with_what_would(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".+") as refused:
        parse_source(text)
    assert str(refused.value) == message


def test_the_revision_may_stand_in_either_place_but_must_not_differ() -> None:
    assert parse_source("hf://org/name", "v2").revision == "v2"
    assert parse_source("hf://org/name@v2", "v2").revision == "v2"
    with pytest.raises(ValueError, match="pins v1, and revision says v2; keep one of them"):
        parse_source("hf://org/name@v1", "v2")


def test_only_repositories_have_revisions() -> None:
    with pytest.raises(ValueError, match="a revision pins hf:// sources only; file:// has none, remove it"):
        parse_source("file:///a", "v1")


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused_in_words(text: str) -> None:
    try:
        source = parse_source(text)
    except ValueError:
        return
    assert source.origin
    assert ".." not in [*(source.file or "").split("/"), *source.path.split("/")]


def test_safetensors_win_over_gguf_and_neither_is_an_error() -> None:
    assert detect_format(["a.gguf", "b.safetensors"]) is ModelFormat.SAFETENSORS
    assert detect_format(["a.gguf", "README.md"]) is ModelFormat.GGUF
    with pytest.raises(ValueError, match=r"no .safetensors or .gguf file among pytorch_model.bin"):
        detect_format(["pytorch_model.bin"])


def test_only_the_files_that_make_up_the_model_are_taken() -> None:
    names = [*SHARDS, "config.json", "tokenizer.json", "merges.txt", "model.safetensors.index.json"]
    noise = [
        "README.md",
        "pytorch_model.bin",
        "onnx/model.onnx",
        "modeling.py",
        "original/consolidated.00.pth",
    ]
    pooling = "1_Pooling/config.json"
    chosen = select_files([*names, *noise, pooling, "consolidated.safetensors"])
    assert sorted(chosen) == sorted([*names, pooling])


def test_of_several_ggufs_one_must_be_named() -> None:
    with pytest.raises(
        ValueError, match=r"holds 2 models; name one of them: tiny-Q4_K_M.gguf, tiny-Q8_0.gguf"
    ):
        select_files(QUANTS)
    assert select_files([*QUANTS, "README.md"], "tiny-Q8_0.gguf") == ("tiny-Q8_0.gguf",)
    with pytest.raises(ValueError, match=r"has no file other.gguf; it has tiny-Q4_K_M.gguf"):
        select_files(QUANTS, "other.gguf")


def test_all_parts_of_a_split_gguf_are_taken_and_the_first_is_opened() -> None:
    assert select_files([*reversed(PARTS), "README.md"]) == tuple(PARTS)
    assert select_files(PARTS, PARTS[2]) == tuple(PARTS)
    with pytest.raises(ValueError, match=r"is one of 3 parts, and big-00003-of-00003.gguf is not there"):
        select_files(PARTS[:2])
