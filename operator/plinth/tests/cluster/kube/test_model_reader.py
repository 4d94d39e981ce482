"""Who is asked about which source in a cluster, and who shares the answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from plinth.api.v1alpha1 import ModelDeployment
from plinth.cluster.credentials import CredentialsError
from plinth.cluster.inspector_rest import InspectorRest
from plinth.cluster.kube.model_reader import ClusterReadings
from plinth.cluster.model_reader import Question
from plinth.domain.fleet import Artifact, ArtifactRefusal
from plinth.tests.cluster.test_inspector import inspecting
from plinth.tests.cluster.test_model_reader import make_model
from plinth.tests.engine.hub_server import REPOSITORY, Hub, hub_server

TOKEN = "hf_of_team_a"
PUBLIC = f"hf://{REPOSITORY}"
GATED: dict[str, Any] = {"source": PUBLIC, "credentials": {"name": "hub", "key": "token"}}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub({"config.json": json.dumps({"a": 1}).encode(), "model.safetensors": b"w" * 5})
    with hub_server(served) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield served


class Secrets:
    """Only team-a has the hub's token."""

    async def read(self, namespace: str, ref: str) -> str:
        if (namespace, ref) != ("team-a", "hub/token"):
            raise CredentialsError(f"there is no Secret {namespace}/hub; create it with the key token")
        return TOKEN


@asynccontextmanager
async def readings(
    tmp_path: Path, inspector: tuple[str, int] | None = None
) -> AsyncIterator[ClusterReadings]:
    def inspector_of(_: ModelDeployment) -> tuple[str, int] | None:
        return inspector

    (tmp_path / "secret").touch()
    made = ClusterReadings(
        inspectors=InspectorRest(tmp_path / "secret"), inspector_of=inspector_of, read_token=Secrets().read
    )
    yield made
    await made.close()


async def test_public_sources_are_everybodys_and_what_a_token_opens_is_its_namespaces(tmp_path: Path) -> None:
    async with readings(tmp_path) as made:
        public = {made.question(make_model(namespace=team, source=PUBLIC)) for team in ("a", "b")}
        gated = {made.question(make_model(namespace=team, **GATED)) for team in ("a", "a", "b")}
    assert public == {Question(source=PUBLIC, revision=None, credentials=None, reader="")}
    assert {(question.namespace, question.credentials) for question in gated} == {
        ("a", "hub/token"),
        ("b", "hub/token"),
    }


async def test_what_only_pods_see_is_asked_of_their_inspector(tmp_path: Path) -> None:
    async with readings(tmp_path, ("10.0.0.1", 8270)) as made:
        for source in ("file:///models/m", "package://module", "pvc://claim/m"):
            question = made.question(make_model(namespace="a", source=source))
            assert question.reader == "10.0.0.1:8270"
            assert question.namespace == ("a" if source.startswith("pvc") else "")
        assert made.question(make_model(source=PUBLIC)).reader == ""
    async with readings(tmp_path, None) as made:
        assert made.question(make_model(source="file:///models/m")).reader is None


async def test_the_operator_reads_the_hub_with_the_namespaces_token(tmp_path: Path, hub: Hub) -> None:
    hub.gated_for = TOKEN
    async with readings(tmp_path) as made:
        ours = await made.answer(made.question(make_model(namespace="team-a", **GATED)))
        theirs = await made.answer(made.question(make_model(namespace="team-b", **GATED)))
        nobodys = await made.answer(made.question(make_model(namespace="team-a", source=PUBLIC)))
    assert isinstance(ours, Artifact)
    assert theirs == ArtifactRefusal(
        reason="ModelNotFound",
        message="spec.model.credentials: there is no Secret team-b/hub; create it with the key token",
    )
    assert isinstance(nobodys, ArtifactRefusal)
    assert "is gated" in nobodys.message


async def test_the_operators_own_files_are_never_a_source(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"w")
    async with readings(tmp_path, None) as made:
        for source in (f"file://{tmp_path}", f"FILE://{tmp_path}", f"s3://{tmp_path}", str(tmp_path)):
            answer = await made.answer(Question(source=source, revision=None, credentials=None))
            assert isinstance(answer, ArtifactRefusal)


async def test_an_inspector_answers_for_its_pods(tmp_path: Path) -> None:
    model = tmp_path / "models" / "tiny"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"w")
    async with inspecting(tmp_path) as asked:
        host, port = asked.address.split(":")
        async with readings(tmp_path, (host, int(port))) as made:
            (tmp_path / "secret").write_text("engine-secret-for-tests")
            answer = await made.answer(made.question(make_model(source=f"file://{model}")))
            assert isinstance(answer, Artifact)
    async with readings(tmp_path, (host, int(port))) as made:
        assert await made.answer(made.question(make_model(source=f"file://{model}"))) is None
