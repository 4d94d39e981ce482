"""`kubectl plinth` with a kubectl that says what a real one says, and an API server that holds what a cluster would."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from plinth.api.v1alpha1 import AnyResource
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.errors import KubeRefused
from plinth.cluster.kube.kinds import Kind
from plinth.runtime import kubectl as plugin
from plinth.runtime import profile_command
from plinth.runtime.plan_client import PlanRefused, PlanUnavailable
from plinth.runtime.port_forward import forwarded
from plinth.runtime.profiling import Level, Workload
from plinth.tests.runtime.test_profile_command import make_level

OBJECTS: dict[tuple[str, str, str], dict[str, Any]] = {
    ("ModelDeployment", "team-a", "chat"): {
        "apiVersion": "plinth.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "chat", "namespace": "team-a", "uid": "1", "managedFields": [{}]},
        "spec": {"model": {"source": "hf://org/chat"}},
        "status": {"pool": "h200", "readyReplicas": 1, "desiredReplicas": 2, "reason": "Scaling"},
    },
    ("GPUPool", "", "h200"): {
        "apiVersion": "plinth.dev/v1alpha1",
        "kind": "GPUPool",
        "metadata": {"name": "h200"},
        "status": {"rayClusters": ["plinth-system/h200-0c5e9f1a"], "reason": "CapacityReady"},
    },
    ("Secret", "plinth-system", "h200-0c5e9f1a"): {
        "data": {"auth_token": base64.b64encode(b"token of Ray").decode()}
    },
    **{
        ("Pod", "plinth-system", name): {"metadata": {"name": name}, "status": {"phase": phase}}
        for name, phase in (("operator-0", "Pending"), ("operator-1", "Running"), ("operator-2", "Running"))
    },
}
PLANNED = {"models": [], "pending": [], "pools": [], "changes": [], "settled": True}


class ClusterClient:
    """The reading half of a KubeClient; what `forbidden` names is refused."""

    def __init__(self, forbidden: str = "") -> None:
        self._forbidden = forbidden

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
        return OBJECTS.get((kind.kind, namespace, name))

    async def list(
        self, kind: Kind, *, namespace: str = "", labels: str = ""
    ) -> tuple[list[dict[str, Any]], str]:
        if kind.kind == self._forbidden:
            raise KubeRefused(403, "Forbidden", f"{kind.plural} is forbidden")
        found = [
            item
            for (name, place, _), item in OBJECTS.items()
            if name == kind.kind and namespace in {"", place}
        ]
        return found, "1"

    async def close(self) -> None: ...


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, ClusterClient())


def use(monkeypatch: pytest.MonkeyPatch, client: ClusterClient) -> None:
    async def connect() -> ClusterClient:
        return client

    monkeypatch.setattr(KubeClient, "connect", connect)


def put_kubectl(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A kubectl of our own, first in PATH."""
    program = folder / "kubectl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(plugin.kubectl, arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.usefixtures("cluster")
def test_status_shows_the_models_of_the_contexts_namespace_and_the_pools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_kubectl(tmp_path, monkeypatch, "echo team-a")
    shown = run("status")
    (row,) = (line for line in shown.splitlines() if "team-a/chat" in line)
    assert {"1/2", "Scaling"} <= set(row.split())
    assert "h200" in shown
    put_kubectl(tmp_path, monkeypatch, "echo team-b")
    assert "team-a/chat" not in run("status")
    assert "team-a/chat" in run("status", "-A")


@pytest.mark.usefixtures("cluster")
def test_the_wide_table_folds_nothing() -> None:
    head, row, *_ = run("status", "-A", "-o", "wide").splitlines()
    assert head.split()[-6:] == ["POOL", "ENGINE", "REVISION", "UPDATED", "OBJECTIVES", "PREDICTION"]
    assert row.split()[-1] == "h200"


def test_without_permission_to_see_pools_the_models_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, ClusterClient(forbidden="GPUPool"))
    shown = run("status", "-n", "team-a")
    assert "team-a/chat" in shown
    assert "h200" not in shown


def test_what_the_api_server_refuses_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, ClusterClient(forbidden="ModelDeployment"))
    result = CliRunner().invoke(plugin.kubectl, ["status", "-n", "team-a"])
    assert result.exit_code == 1
    assert result.output == "Error: 403 Forbidden: modeldeployments is forbidden\n"


@pytest.mark.usefixtures("cluster")
def test_a_profile_is_measured_through_the_gateway_s_port(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Workload, list[int], float]] = []

    async def measure(endpoint: str, workload: Workload, users: list[int], seconds: float) -> list[Level]:
        asked.append((endpoint, workload, users, seconds))
        return [make_level(users=each) for each in users]

    @contextmanager
    def forward(*_: str) -> Iterator[str]:
        yield "http://127.0.0.1:40123"

    monkeypatch.setattr(plugin, "forwarded", forward)
    monkeypatch.setattr(profile_command, "measure", measure)
    shown = json.loads(run("profile", "chat", "-n", "team-a", "-c", "4", "--seconds", "9", "-o", "json"))
    workload = Workload(model="team-a/chat", input_tokens=512, output_tokens=256)
    assert asked == [("http://127.0.0.1:40123/v1", workload, [4], 9.0)]
    assert [level["concurrency"] for level in shown["levels"]] == [4]


@dataclass
class Operators:
    """Pods of the operator, of which the second leads."""

    answer: dict[str, Any] | PlanRefused = field(default_factory=lambda: dict(PLANNED))
    asked: list[tuple[str, list[str], str | None]] = field(default_factory=list)
    """Pod and port, the resources, the pool."""
    _forwarded: str = ""

    @contextmanager
    def forward(self, namespace: str, target: str, port: str) -> Iterator[str]:
        self._forwarded = f"{namespace} {target}:{port}"
        yield "http://127.0.0.1:40123"

    def ask(self, _: str, resources: Iterable[AnyResource], pool: str | None) -> dict[str, Any]:
        self.asked.append((self._forwarded, [str(each.key) for each in resources], pool))
        if "operator-1" in self._forwarded:
            raise PlanUnavailable("it does not lead")
        if isinstance(self.answer, PlanRefused):
            raise self.answer
        return self.answer


@pytest.fixture
def operators(monkeypatch: pytest.MonkeyPatch) -> Operators:
    made = Operators()
    monkeypatch.setattr(plugin, "forwarded", made.forward)
    monkeypatch.setattr(plugin, "ask_at", made.ask)
    return made


def write_models(folder: Path) -> str:
    """Two models, of which one says where it belongs."""
    header = {"apiVersion": "plinth.dev/v1alpha1", "kind": "ModelDeployment"}
    places = ({"name": "chat"}, {"name": "chat", "namespace": "team-b"})
    spec = {"model": {"source": "hf://org/chat"}}
    (folder / "m.yaml").write_text(
        yaml.safe_dump_all({**header, "metadata": place, "spec": spec} for place in places)
    )
    return str(folder / "m.yaml")


@pytest.mark.usefixtures("cluster")
def test_a_plan_is_asked_of_the_operator_that_leads_for_the_contexts_namespace(
    tmp_path: Path, operators: Operators
) -> None:
    shown = run("plan", write_models(tmp_path), "--pool", "h200", "-n", "team-a", "-o", "json")
    assert json.loads(shown) == PLANNED
    models = ["ModelDeployment team-a/chat", "ModelDeployment team-b/chat"]
    assert operators.asked == [
        (f"plinth-system pod/operator-{number}:plan", models, "h200") for number in (1, 2)
    ]


@pytest.mark.usefixtures("cluster")
def test_a_plan_that_leaves_something_pending_ends_with_three_and_shows_who_would_go(
    tmp_path: Path, operators: Operators
) -> None:
    name = {"name": "other", "namespace": "team-c"}
    change = {
        **name,
        "replica": "team-c.other.aa.0",
        "action": "Drain",
        "nodes": ["n1"],
        "reason": "it yields",
    }
    obstacle = {**name, "reason": "InsufficientCapacity", "message": "held by team-a/chat"}
    operators.answer = {**PLANNED, "pending": [obstacle], "changes": [change]}
    done = CliRunner().invoke(plugin.kubectl, ["plan", write_models(tmp_path), "-n", "team-a"])
    assert done.exit_code == 3
    assert "team-c/other stays pending: held by team-a/chat" in done.stderr
    assert "team-c.other.aa.0  Drain   n1     it yields" in done.stdout


@pytest.mark.usefixtures("cluster")
def test_what_the_operator_refuses_is_bad_input(tmp_path: Path, operators: Operators) -> None:
    operators.answer = PlanRefused("there is no GPUPool b200; there is h200")
    done = CliRunner().invoke(plugin.kubectl, ["plan", write_models(tmp_path), "-n", "team-a"])
    assert (done.exit_code, done.stderr) == (2, "Error: there is no GPUPool b200; there is h200\n")


@pytest.mark.usefixtures("cluster", "operators")
def test_without_an_operator_it_is_said_where_none_runs(tmp_path: Path) -> None:
    command = ["plan", write_models(tmp_path), "-n", "team-a", "--system-namespace", "elsewhere"]
    done = CliRunner().invoke(plugin.kubectl, command)
    assert done.exit_code == 1
    assert "no pod of plinth-operator runs in elsewhere" in done.stderr


async def test_logs_are_asked_of_the_rays_that_the_pool_names() -> None:
    client: Any = ClusterClient()
    assert await plugin.find_rays(client, "team-a", "chat") == [
        ("plinth-system/h200-0c5e9f1a", "token of Ray")
    ]
    with pytest.raises(click.ClickException, match="there is no ModelDeployment team-a/other"):
        await plugin.find_rays(client, "team-a", "other")


def test_a_port_is_forwarded_for_as_long_as_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = tmp_path / "ended"
    script = f"""
        trap 'touch {ended}; exit' TERM
        echo "$@" > {tmp_path}/asked
        echo "Forwarding from 127.0.0.1:40123 -> 8000"
        while :; do sleep 0.05; done
    """
    put_kubectl(tmp_path, monkeypatch, script)
    with forwarded("plinth-system", "service/plinth-gateway", "http") as address:
        assert address == "http://127.0.0.1:40123"
        assert not ended.exists()
    assert ended.exists()
    asked = (tmp_path / "asked").read_text()
    assert "--namespace plinth-system" in asked
    assert asked.endswith("service/plinth-gateway :http\n")


def test_a_forwarding_ends_with_what_it_was_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_kubectl(tmp_path, monkeypatch, 'echo "Forwarding from 127.0.0.1:40123 -> 8000"; exec sleep 60')
    with (
        pytest.raises(click.ClickException, match="the model refused"),
        forwarded("plinth-system", "service/plinth-gateway", "http"),
    ):
        raise click.ClickException("the model refused")


def test_what_kubectl_refuses_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_kubectl(tmp_path, monkeypatch, 'echo "error: services not found" >&2; exit 1')
    with (
        pytest.raises(click.ClickException, match="cannot be reached: error: services not found"),
        forwarded("plinth-system", "service/none", "http"),
    ):
        raise AssertionError
