"""A real Redis that speaks nothing but TLS and asks for certificates: who is let in, and that gateways count by it."""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from plinth.domain.access import HOUR
from plinth.gateway.protocol.resp import Reply
from plinth.gateway.server.redis import RedisAddress, connect_to_redis
from plinth.gateway.server.tls import TlsFiles
from plinth.tests.gateway.harness import (
    Connection,
    Controller,
    make_table,
    replicas,
    scenario,
    start_gateway_process,
)
from plinth.tests.gateway.limits.builders import make_limit
from plinth.tests.gateway.limits.real_redis import running_redis
from plinth.tests.gateway.test_tls import Authority, with_authority
from plinth.tests.gateway.wire.rig import bearer, make_access, make_policy, model_at

pytestmark = pytest.mark.process


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    authority = Authority(tmp_path, "authority")
    return with_authority(authority.issue(tmp_path / "redis", "redis"), authority)


async def ping(address: RedisAddress) -> Reply:
    async with asyncio.timeout(0.5):  # whom TLS 1.3 refuses learns it after the handshake, or never
        connection = await connect_to_redis(address, lambda: None, 1.0)
        try:
            return await connection.ask(b"PING")
        finally:
            connection.close()


@scenario
async def test_it_is_spoken_to_only_by_whom_it_trusts_and_only_if_it_is_trusted(
    tmp_path: Path, files: TlsFiles
) -> None:
    stranger = Authority(tmp_path, "stranger")
    async with running_redis(tmp_path, files) as redis:
        assert await ping(redis.address) == b"PONG"
        for wrong in (
            replace(files, authority=stranger.path),
            replace(files, certificate=None, key=None),
            TlsFiles(),
            None,
        ):
            with pytest.raises(OSError):  # noqa: PT011 - what it says is the system's; a timeout is one, too
                await ping(replace(redis.address, tls=wrong))


@scenario
async def test_a_renewed_certificate_is_shown_at_the_next_connection(tmp_path: Path) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    files = with_authority(old.issue(tmp_path / "redis", "redis"), old)
    async with running_redis(tmp_path, files) as redis:
        new.path.replace(old.path)
        with pytest.raises(ssl.SSLCertVerificationError):
            await redis.connect()


@scenario
async def test_two_gateways_count_together_over_it(tmp_path: Path, files: TlsFiles) -> None:
    access = make_access(make_policy(make_limit("requests", 8, HOUR)))
    async with running_redis(tmp_path, files) as redis, replicas(None) as (upstream,):
        flags = (
            *("--redis-url", f"rediss://127.0.0.1:{redis.address.port}/1"),
            *("--redis-tls-ca", str(files.authority)),
            *("--redis-tls-cert", str(files.certificate), "--redis-tls-key", str(files.key)),
        )
        gateways = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            gateway = await start_gateway_process(tmp_path / name, *flags)
            controller = await Controller.connect(tmp_path / name / "g.sock", access)
            await controller.apply(make_table(model_at(upstream.port)))
            host, _, port = json.loads(gateway.announced)["listening"].rpartition(":")
            client = Connection(*await asyncio.open_connection(host, int(port)))
            gateways.append((gateway, controller, client))
        await asyncio.sleep(0.5)  # until both are connected
        statuses = []
        for _ in range(8):
            for _, _, client in gateways:
                statuses.append((await client.ask(headers=bearer())).status)
                await asyncio.sleep(0.05)
        assert statuses.count(200) == 8, statuses
        assert set(statuses) == {200, 429}
        for gateway, controller, client in gateways:
            client.close()
            await controller.close()
            await gateway.end()
