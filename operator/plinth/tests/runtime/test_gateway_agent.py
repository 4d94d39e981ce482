"""The agent beside a gateway as the process that it is: small, guarded, and the last of its pod to go."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import yaml

from plinth.cluster.kube.key_store import KeySecrets
from plinth.cluster.kube.table_following import load_table, save_table
from plinth.desired.key_secrets import make_secret
from plinth.domain.access import AccessTable
from plinth.domain.control_lines import decode_line, encode_access, encode_table
from plinth.domain.keys import StoredSecret, digest_of, revoke
from plinth.domain.traffic import LoadReport, RouteTable
from plinth.runtime.gateway_agent import AgentOptions, GatewayAgent
from plinth.tests.cluster.kube.fake_api_server import FakeApiServer
from plinth.tests.domain.test_keys import make_key
from plinth.tests.gateway.harness import (
    STREAMING,
    Child,
    Connection,
    eventually,
    make_model,
    make_replica,
    make_table,
    replicas,
    request_bytes,
    scenario,
    start_gateway_process,
    stream,
)
from plinth.tests.runtime.gateway_alone import gateway_alone, terms_of

pytestmark = pytest.mark.process

PACKAGES = Path(__file__).parents[3]
TOKEN = "a-token"
SECRETS = "/api/v1/secrets"


@dataclass
class Agent:
    process: asyncio.subprocess.Process
    url: str

    async def get(self, path: str, *, token: str = "") -> int:
        async with aiohttp.ClientSession() as session:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            async with session.get(self.url + path, headers=headers) as answer:
                return answer.status

    async def wait_ready(self) -> None:
        async with asyncio.timeout(20):
            while await self.get("/readyz") != 200:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def agent_process(folder: Path, *flags: str) -> AsyncIterator[Agent]:
    """An agent whose API server is away."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "away",
        "contexts": [{"name": "away", "context": {"cluster": "away", "user": "away"}}],
        "clusters": [{"name": "away", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "away", "user": {}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    (folder / "token").write_text(f"{TOKEN}\n")
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plinth.runtime.gateway_agent", "--namespace", "plinth-system"),
        *("--control", str(folder / "g.sock"), "--listen", f"127.0.0.1:{port}"),
        *("--token-file", str(folder / "token"), "--table-file", str(folder / "table.json")),
        *("--access-file", str(folder / "access.json"), *flags),
        env={**os.environ, "KUBECONFIG": str(folder / "kubeconfig")},
        stderr=asyncio.subprocess.PIPE,
        cwd=PACKAGES,
    )
    assert process.stderr is not None
    assert b"listening on" in await process.stderr.readline()
    try:
        yield Agent(process, f"http://127.0.0.1:{port}")
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@asynccontextmanager
async def gateway_process(folder: Path) -> AsyncIterator[Child]:
    gateway = await start_gateway_process(folder)
    try:
        yield gateway
    finally:
        await gateway.end()


def test_it_loads_nothing_that_it_does_not_need() -> None:
    heavy = {"pydantic", "ray", "kopf", "kubernetes", "rich", "yaml", "plinth.api", "plinth.gateway"}
    program = f"import sys, plinth.runtime.gateway_agent; print({heavy!r} & sys.modules.keys())"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGES, capture_output=True, text=True, check=True, timeout=30
    )
    assert found.stdout.strip() == "set()"


async def test_a_saved_table_is_routed_by_at_once_with_nobody_else_there(tmp_path: Path) -> None:
    save_table(tmp_path / "table.json", encode_table(make_table(make_model(make_replica(1)), version=7)))
    async with agent_process(tmp_path) as agent:
        assert (await agent.get("/healthz"), await agent.get("/readyz")) == (200, 503)
        async with gateway_process(tmp_path):
            await agent.wait_ready()
            async with (
                aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session,
                session.get(f"{agent.url}/reports") as answer,
            ):
                report = decode_line(await answer.content.readline())
            assert isinstance(report, LoadReport)
            assert report.table_version == 7
        async with asyncio.timeout(5):
            while await agent.get("/readyz") == 200:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("flag", ["--requires-key", "--requires-no-key"])
@scenario
async def test_a_saved_access_table_is_admitted_by_at_once_unless_it_lets_in_whom_the_agent_must_not(
    tmp_path: Path, flag: str
) -> None:
    save_table(tmp_path / "access.json", encode_access(AccessTable(version=3, requires_key=False)))
    async with gateway_alone(tmp_path) as gateway, agent_process(tmp_path, flag):
        if flag == "--requires-key":
            await asyncio.sleep(0.5)
            assert gateway.core.gate is None
        else:
            await eventually(lambda: terms_of(gateway, "", "team-a/chat") is not None)


@scenario
async def test_a_gateway_admits_by_the_cluster_s_keys_and_is_told_again_when_it_starts_anew(
    tmp_path: Path,
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    secret = StoredSecret(digest=digest_of(b"a-secret"), made_at=0.0)
    server = FakeApiServer()
    server.put(SECRETS, make_secret(make_key(secrets=(secret,)), namespace="keys"))
    client = server.client()
    options = AgentOptions(
        control=tmp_path / "g.sock",
        host="127.0.0.1",
        port=free_port(),
        token_file=tmp_path / "token",
        table_file=tmp_path / "table.json",
        access_file=tmp_path / "access.json",
        namespace="plinth-system",
        keys_namespace="keys",
    )
    agent = GatewayAgent(client, options)
    await agent.start()
    try:
        for _ in range(2):
            async with gateway_alone(tmp_path) as gateway:
                await eventually(lambda: terms_of(gateway, "a-secret", "team-a/chat") is not None)
                assert terms_of(gateway, "", "team-a/chat") is None
        await KeySecrets(client, "keys").change("team-a", "ci", lambda key: revoke(key, now=1.0))
        await eventually(
            lambda: (load_table(tmp_path / "access.json", AccessTable) or AccessTable(version=0)).version == 2
        )
    finally:
        await agent.close()
        await client.close()


async def test_reports_are_shown_only_to_who_has_the_token(tmp_path: Path) -> None:
    async with agent_process(tmp_path) as agent:
        assert await agent.get("/reports") == 401
        assert await agent.get("/reports", token="another") == 401
        (tmp_path / "token").write_text("")
        assert await agent.get("/reports", token="") == 401
        (tmp_path / "token").unlink()
        assert await agent.get("/reports", token=TOKEN) == 401


async def test_it_goes_after_its_gateway_has_drained(tmp_path: Path) -> None:
    async with replicas(stream(60, every=0.02)) as (upstream,), gateway_process(tmp_path) as gateway:
        save_table(tmp_path / "table.json", encode_table(make_table(make_model(make_replica(upstream.port)))))
        save_table(tmp_path / "access.json", encode_access(AccessTable(version=1, requires_key=False)))
        async with agent_process(tmp_path, "--requires-no-key") as agent:
            await agent.wait_ready()
            host, _, port = yaml.safe_load(gateway.announced)["listening"].rpartition(":")
            client = Connection(*await asyncio.open_connection(host, int(port)))
            client.send(request_bytes(body=STREAMING))
            await client.head()
            gateway.process.send_signal(signal.SIGTERM)
            agent.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.5)
            assert agent.process.returncode is None
            assert await agent.get("/healthz") == 200
            async with asyncio.timeout(10):
                assert await gateway.process.wait() == 0
                assert await agent.process.wait() == 0
            client.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"type":"shutdown"}', b'{"type":"table"}'])
def test_a_saved_table_that_makes_no_sense_is_no_table(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.json"
    assert load_table(path, RouteTable) is None
    path.write_bytes(content)
    assert load_table(path, RouteTable) is None


def test_a_table_that_cannot_be_saved_costs_only_that(tmp_path: Path) -> None:
    save_table(tmp_path / "no-such-folder" / "table.json", encode_table(make_table()))
