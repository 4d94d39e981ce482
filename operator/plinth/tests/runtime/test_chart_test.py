"""What `helm test` runs, against a real gateway and its agent: it finds what is wrong, and leaves no key behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from plinth.desired.key_secrets import make_secret
from plinth.runtime import chart_test
from plinth.runtime.chart_test import KEY_NAME, NotServedError, list_models, list_models_by_key
from plinth.runtime.gateway_agent import AgentOptions, GatewayAgent
from plinth.tests.cluster.kube.fake_api_server import FakeApiServer
from plinth.tests.domain.test_keys import make_key
from plinth.tests.gateway.harness import make_model, make_replica, make_table, running_gateway
from plinth.tests.gateway.limits.real_redis import free_port
from plinth.tests.gateway.test_tls import Authority
from plinth.tests.gateway.wire.rig import make_access
from plinth.tests.runtime.gateway_alone import gateway_alone

pytestmark = pytest.mark.process

SECRETS = "/api/v1/secrets"
NAMESPACES = {"namespace": "plinth-system", "keys_namespace": "keys"}


@asynccontextmanager
async def gateway_with_agent(
    folder: Path, server: FakeApiServer, *, requires_key: bool
) -> AsyncIterator[str]:
    """Its address."""
    options = AgentOptions(
        control=folder / "g.sock",
        host="127.0.0.1",
        port=free_port(),
        token_file=folder / "token",
        table_file=folder / "table.json",
        access_file=folder / "access.json",
        namespace="plinth-system",
        keys_namespace="keys",
        requires_key=requires_key,
    )
    client = server.client()
    agent = GatewayAgent(client, options)
    async with gateway_alone(folder) as gateway:
        await agent.start()
        try:
            while gateway.core.gate is None:
                await asyncio.sleep(0.01)
            yield "http://{}:{}".format(*gateway.address)
        finally:
            await agent.close()
            await client.close()


async def test_a_key_is_made_opens_the_gateway_and_is_gone_afterwards(tmp_path: Path) -> None:
    server = FakeApiServer()
    left = make_key(KEY_NAME, tenant="plinth-system")  # by a run that was killed
    server.put(SECRETS, make_secret(left, namespace="keys"))
    async with gateway_with_agent(tmp_path, server, requires_key=True) as gateway:
        assert await list_models_by_key(server.client(), gateway, **NAMESPACES) == []
        assert [method for method, _ in server.writes] == ["DELETE", "POST", "DELETE"]
        assert not server.objects
        with pytest.raises(NotServedError, match="answers 401"):
            await list_models(gateway)


async def test_a_gateway_that_asks_for_no_key_where_it_should_is_found_out(tmp_path: Path) -> None:
    server = FakeApiServer()
    async with gateway_with_agent(tmp_path, server, requires_key=False) as gateway:
        with pytest.raises(NotServedError, match="asks for no key: it answers 200"):
            await list_models_by_key(server.client(), gateway, **NAMESPACES)
        assert not server.objects
        assert await list_models(gateway) == []


async def test_a_gateway_that_never_learns_of_the_key_fails_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chart_test, "PATIENCE_SECONDS", 0.3)
    server = FakeApiServer()
    async with running_gateway(tmp_path, access=make_access()) as rig:
        address = "http://{}:{}".format(*rig.gateway.address)
        with pytest.raises(NotServedError, match="answers 401 to a new key"):
            await list_models_by_key(server.client(), address, **NAMESPACES)
    assert not server.objects


async def test_a_gateway_is_asked_by_tls_whatever_its_certificate_names(tmp_path: Path) -> None:
    files = Authority(tmp_path, "authority").issue(tmp_path / "front", "models.example")
    table = make_table(make_model(make_replica(1)))
    async with running_gateway(tmp_path, table, clients_tls=files) as rig:
        assert await list_models("https://{}:{}".format(*rig.gateway.address)) == ["tiny"]
