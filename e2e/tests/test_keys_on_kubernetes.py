"""Keys and QuotaPolicies on a real API server: what it takes and refuses, how soon a revoked key is one no more, and what
the operator says of it all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kube.access import Kubernetes
from kube.processes import find_free_ports
from operator_plumbing import OperatorUnderTest

from plinth.cli import kubectl
from plinth.cluster.kube.access_follower import AccessFollower
from plinth.cluster.kube.client import SECRET, KubeClient, KubeRefused
from plinth.cluster.kube.key_store import KeySecrets
from plinth.cluster.kube.kinds import QUOTA_POLICY
from plinth.desired.key_secrets import make_secret
from plinth.domain.access import AccessTable
from plinth.domain.keys import KeyTaken, revoke
from plinth.gateway.access.callers import Caller, Gate
from plinth.runtime.gateway_agent import AgentOptions, GatewayAgent
from plinth.tests.api.building import policy_document
from plinth.tests.domain.test_keys import make_key
from plinth.tests.runtime.gateway_alone import gateway_alone, terms_of

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


def say(namespace: str, *words: str) -> str:
    """`kubectl plinth keys`; what it prints."""
    options = ["-n", namespace, "--keys-namespace", namespace]
    result = CliRunner().invoke(kubectl, ["keys", *words, *options])
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


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
        secret = await asyncio.to_thread(say, kube_namespace, "create", "ci", "--policy", "standard")

        def is_open() -> bool:
            found = gates[-1].admit(b"Bearer " + secret.encode(), b"", time.time()) if gates else None
            return isinstance(found, Caller) and found.terms(f"{kube_namespace}/chat") is not None

        await until(is_open)
        await asyncio.to_thread(say, kube_namespace, "revoke", "ci")
        assert await until(lambda: not is_open()) < REVOKED_WITHIN_SECONDS
        assert f"{kube_namespace}/standard" in {each.name for each in seen[-1].policies}
    finally:
        await follower.close()


async def test_a_policy_and_its_key_reach_a_gateway_by_its_agent_and_the_operator_tells_of_both(
    control_plane: Kubernetes, client: KubeClient, kube_namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("a-token")
    (port,) = find_free_ports(1)
    options = AgentOptions(
        control=tmp_path / "g.sock",
        host="127.0.0.1",
        port=port,
        token_file=tmp_path / "token",
        table_file=tmp_path / "table.json",
        access_file=tmp_path / "access.json",
        namespace=kube_namespace,
        keys_namespace=kube_namespace,
    )

    async def wait_keys(count: int) -> None:
        """Until the policy's status counts so many."""
        async with asyncio.timeout(40):
            while True:
                found = await client.get(QUOTA_POLICY, kube_namespace, "standard")
                assert found is not None
                if found["status"].get("keys") == count:
                    assert found["status"]["limits"] == ["each key: 2 requests at once"]
                    assert {each["type"]: each["status"] for each in found["status"]["conditions"]} == {
                        "Accepted": "True",
                        "Ready": "True",
                    }
                    return
                await asyncio.sleep(0.1)

    agent = GatewayAgent(client, options)
    operator = OperatorUnderTest(control_plane, kube_namespace, tmp_path, "one")
    try:
        async with gateway_alone(tmp_path) as gateway:
            await agent.start()
            await asyncio.to_thread(
                control_plane.apply, policy(kube_namespace, limits={"perKey": {"concurrency": 2}})
            )
            await wait_keys(0)
            secret = await asyncio.to_thread(say, kube_namespace, "create", "ci", "--policy", "standard")

            def limits() -> int | None:
                """How many limits the gateway holds the key to; None where it does not admit it."""
                terms = terms_of(gateway, secret, f"{kube_namespace}/chat")
                return None if terms is None else len(terms.limits)

            await until(lambda: limits() == 1)
            await wait_keys(1)
            await asyncio.to_thread(say, kube_namespace, "revoke", "ci")
            assert await until(lambda: limits() is None) < REVOKED_WITHIN_SECONDS
            await wait_keys(0)
    finally:
        operator.kill()
        await agent.close()
