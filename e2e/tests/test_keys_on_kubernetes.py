"""Keys and QuotaPolicies on a real API server: what it takes and refuses, and how soon a revoked key is one no more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kube.access import Kubernetes

from plinth.cli import kubectl
from plinth.cluster.kube.access_follower import AccessFollower
from plinth.cluster.kube.client import SECRET, KubeClient, KubeRefused
from plinth.cluster.kube.key_store import KeySecrets
from plinth.cluster.kube.kinds import QUOTA_POLICY
from plinth.desired.key_secrets import make_secret
from plinth.domain.access import AccessTable
from plinth.domain.keys import KeyTaken, revoke
from plinth.gateway.access.callers import Caller, Gate
from plinth.tests.api.building import policy_document
from plinth.tests.domain.test_keys import make_key

pytestmark = [pytest.mark.kube, pytest.mark.timeout(120)]
REVOKED_WITHIN_SECONDS = 1.0


@pytest.fixture
async def client(control_plane: Kubernetes, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubeClient]:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    made = await KubeClient.connect()
    try:
        yield made
    finally:
        await made.close()


def policy(namespace: str, **spec: Any) -> dict[str, Any]:
    document = policy_document("standard", **spec)
    document["metadata"]["namespace"] = namespace
    return document


async def until(condition: Callable[[], bool], *, seconds: float = 20.0) -> float:
    started = time.monotonic()
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
    return time.monotonic() - started


async def test_a_policy_is_filled_in_and_its_rules_are_the_api_server_s_own(
    client: KubeClient, kube_namespace: str
) -> None:
    made = await client.create(QUOTA_POLICY, policy(kube_namespace, models=["chat"]))
    assert made["spec"]["onBackendAway"] == "Allow"
    assert made["spec"]["cache"] == {"ttlSeconds": 300}
    assert made["status"] == {"observedGeneration": -1}
    limits = {"perKey": {"requestsPerMinute": 9, "requestsPerHour": 8}}
    with pytest.raises(
        KubeRefused, match=r"requestsPerMinute.*must be at most requestsPerHour, got 9; lower it"
    ):
        await client.apply(QUOTA_POLICY, policy(kube_namespace, limits=limits))
    with pytest.raises(KubeRefused, match="must name each model once"):
        await client.apply(QUOTA_POLICY, policy(kube_namespace, models=["chat", "chat"]))


async def test_of_two_who_make_or_change_one_key_only_one_does(
    client: KubeClient, kube_namespace: str
) -> None:
    keys = KeySecrets(client, kube_namespace)
    await keys.add(make_key("ci", id="pk_1"))
    with pytest.raises(KeyTaken):
        await keys.add(make_key("ci", id="pk_2"))
    before = await client.get(SECRET, kube_namespace, "team-a.ci")
    assert before is not None
    await keys.change("team-a", "pk_1", lambda key: revoke(key, now=1.0))
    stale = make_secret(
        make_key("ci"), namespace=kube_namespace, version=before["metadata"]["resourceVersion"]
    )
    with pytest.raises(KubeRefused) as refused:
        await client.replace(SECRET, stale)
    assert refused.value.status == 409
    await keys.add(make_key("ci", id="pk_2"))
    assert [each.id for each in await keys.read("team-a")] == ["pk_2"]
    assert await keys.read("team-b") == []


async def test_a_key_from_the_command_line_opens_a_gateway_and_is_refused_within_a_second_of_its_end(
    client: KubeClient, kube_namespace: str, tmp_path: Path
) -> None:
    def say(*words: str) -> str:
        options = ["-n", kube_namespace, "--keys-namespace", kube_namespace]
        result = CliRunner().invoke(kubectl, ["keys", *words, *options])
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    await client.create(QUOTA_POLICY, policy(kube_namespace, limits={"perKey": {"concurrency": 2}}))
    gates: list[Gate] = []
    seen: list[AccessTable] = []

    def take(table: AccessTable) -> None:
        seen.append(table)
        gates.append(Gate(table))

    follower = AccessFollower(
        client,
        keys_namespace=kube_namespace,
        requires_key=True,
        table_file=tmp_path / "access.json",
        hand_over=take,
    )
    follower.start()
    try:
        secret = await asyncio.to_thread(say, "create", "ci", "--policy", "standard")

        def is_open() -> bool:
            found = gates[-1].admit(b"Bearer " + secret.encode(), b"", time.time()) if gates else None
            return isinstance(found, Caller) and found.terms(f"{kube_namespace}/chat") is not None

        await until(is_open)
        await asyncio.to_thread(say, "revoke", "ci")
        assert await until(lambda: not is_open()) < REVOKED_WITHIN_SECONDS
        assert f"{kube_namespace}/standard" in {each.name for each in seen[-1].policies}
    finally:
        await follower.close()
