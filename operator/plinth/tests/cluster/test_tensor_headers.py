"""Headers of all files of a model, from folders and from a hub: what is asked for, and what becomes of it if it fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from plinth.cluster import tensor_headers
from plinth.cluster.artifacts import read_artifact
from plinth.domain.fleet import Artifact, ArtifactRefusal
from plinth.domain.models.headers import NO_LAYER, TensorGroup
from plinth.domain.models.weights import Part
from plinth.engine.local_sources import SourcePlaces
from plinth.tests.cluster.checkpoints import make_safetensors, make_sharded, raw_safetensors
from plinth.tests.engine.hub_server import REPOSITORY, Hub, hub_server

CONFIG = json.dumps({"model_type": "llama"}).encode()
ONE = {"model.embed_tokens.weight": ("BF16", (10, 4)), "model.layers.0.mlp.up_proj.weight": ("BF16", (8, 4))}
TWO = {"model.layers.1.mlp.up_proj.weight": ("BF16", (8, 4)), "lm_head.weight": ("F32", (10, 4))}
SHARDS = {"model-00001-of-00002.safetensors": ONE, "model-00002-of-00002.safetensors": TWO}
GROUPS = (
    TensorGroup(Part.EMBEDDING, "BF16", False, NO_LAYER, 1, 40, 80),  # noqa: FBT003
    TensorGroup(Part.FEED_FORWARD, "BF16", False, 0, 2, 32, 64),  # noqa: FBT003
    TensorGroup(Part.HEAD, "F32", False, NO_LAYER, 1, 40, 160),  # noqa: FBT003
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub({"config.json": CONFIG, **make_sharded(SHARDS)})
    with hub_server(served) as address:
        # huggingface_hub read HF_ENDPOINT when it was imported.
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield served


def read(source: str = f"hf://{REPOSITORY}") -> Artifact:
    found = read_artifact(source, None, places=SourcePlaces())
    assert isinstance(found, Artifact), found
    return found


def put(folder: Path, files: dict[str, bytes]) -> str:
    for name, content in {"config.json": CONFIG, **files}.items():
        (folder / name).write_bytes(content)
    return f"file://{folder}"


def test_the_tensors_of_all_shards_are_told(tmp_path: Path, hub: Hub) -> None:
    assert sorted(read().tensors) == sorted(GROUPS)
    assert sorted(read(put(tmp_path, make_sharded(SHARDS))).tensors) == sorted(GROUPS)
    # Each shard is asked for its first piece, and these are so small that it is all.
    assert {span for name in SHARDS for span in hub.downloads(name)} == {"bytes=0-131071"}


def test_weights_that_the_index_does_not_name_are_left_out(tmp_path: Path) -> None:
    source = put(tmp_path, {**make_sharded(SHARDS), "adapter.safetensors": make_safetensors(ONE)})
    artifact = read(source)
    assert sorted(artifact.tensors) == sorted(GROUPS)
    assert artifact.weights_bytes == sum((tmp_path / name).stat().st_size for name in SHARDS)


def test_a_shard_that_is_not_there_is_missed(tmp_path: Path) -> None:
    source = put(tmp_path, make_sharded({**SHARDS, "model-00003-of-00003.safetensors": ONE}))
    (tmp_path / "model-00003-of-00003.safetensors").unlink()
    found = read_artifact(source, None, places=SourcePlaces())
    assert isinstance(found, ArtifactRefusal)
    assert "names model-00003-of-00003.safetensors, which is not there" in found.message


@pytest.mark.parametrize("ignores_ends", [False, True])
def test_a_long_header_takes_a_second_piece_and_nothing_behind_it(hub: Hub, ignores_ends: bool) -> None:  # noqa: FBT001
    hub.ignores_ends = ignores_ends
    long = make_safetensors({**ONE, **TWO}, padding=200_000)
    hub.files = {"config.json": CONFIG, "model.safetensors": long}
    assert sorted(read().tensors) == sorted(GROUPS)
    header = 8 + int.from_bytes(long[:8], "little")
    assert hub.downloads("model.safetensors") == ["bytes=0-131071", f"bytes=131072-{header - 1}"]


def test_one_failure_is_asked_about_again_and_two_leave_the_config(hub: Hub) -> None:
    name = "model-00002-of-00002.safetensors"
    hub.failing[name] = 1
    assert sorted(read().tensors) == sorted(GROUPS)
    hub.failing[name] = 2
    artifact = read()
    assert artifact.tensors == ()
    assert artifact.config == {"model_type": "llama"}
    assert artifact.weights_bytes == sum(len(hub.files[name]) for name in SHARDS)


def test_a_hub_that_keeps_one_waiting_does_not_keep_the_config(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_headers, "GATHER_SECONDS", 0.0)
    assert read().tensors == ()
    assert hub.downloads("config.json")


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (b"w" * 1000, "is larger than 8388608 bytes"),
        (raw_safetensors(b"{"), "its header cannot be read"),
        (b"", "shorter than the length of its header"),
        (make_safetensors(ONE)[:50], "its header cannot be read"),
    ],
    ids=["noise", "no JSON", "empty", "cut"],
)
def test_a_header_that_cannot_be_read_leaves_the_config(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: bytes, why: str
) -> None:
    caplog.set_level("INFO")
    assert read(put(tmp_path, {"model.safetensors": file})).tensors == ()
    assert why in caplog.text
    assert str(tmp_path) in caplog.text


def test_headers_are_bounded_over_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_headers, "MAX_HEADERS_BYTES", 800)
    source = put(tmp_path, make_sharded(SHARDS))
    assert read(source).tensors == ()
    monkeypatch.setattr(tensor_headers, "MAX_HEADERS_BYTES", 1100)
    assert read(source).tensors
