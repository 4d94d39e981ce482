"""TLS as it is asked for on the command line: towards clients, with certificates renewed under way, and to replicas."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from plinth.gateway.server.tls import ServerTls, TlsFiles
from plinth.tests.gateway.harness import (
    Connection,
    Controller,
    Rig,
    Upstream,
    eventually,
    make_table,
    scenario,
    start_gateway_process,
)
from plinth.tests.gateway.test_tls import NAME, Authority, Talk, trusting, with_authority
from plinth.tests.gateway.wire.rig import model_at, serving

pytestmark = pytest.mark.process


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


async def connect(address: str, context: ssl.SSLContext) -> Connection:
    host, _, port = address.rpartition(":")
    return Connection(*await asyncio.open_connection(host, int(port), ssl=context, server_hostname=NAME))


@asynccontextmanager
async def encrypted_replica(files: TlsFiles) -> AsyncIterator[Upstream]:
    upstream = Upstream()
    await upstream.start(tls=ServerTls(files).context)
    try:
        yield upstream
    finally:
        await upstream.stop()


@scenario
async def test_a_gateway_process_speaks_tls_to_both_sides_and_shows_and_asks_for_certificates(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path, "authority")
    front, back = (
        authority.issue(tmp_path / "front", "gateway"),
        authority.issue(tmp_path / "back", "replica"),
    )
    own, mine = (
        authority.issue(tmp_path / "own", "gateway-client"),
        authority.issue(tmp_path / "mine", "client"),
    )
    flags = {
        "--tls-cert": front.certificate,
        "--tls-key": front.key,
        "--tls-client-ca": authority.path,
        "--replica-tls-ca": authority.path,
        "--replica-tls-cert": own.certificate,
        "--replica-tls-key": own.key,
        "--replica-tls-name": NAME,
    }
    async with encrypted_replica(with_authority(back, authority)) as upstream:
        child = await start_gateway_process(tmp_path, *(str(item) for pair in flags.items() for item in pair))
        controller = await Controller.connect(tmp_path / "g.sock")
        await controller.apply(make_table(model_at(upstream.port)))
        address = json.loads(child.announced)["listening"]
        context = trusting(authority)
        stranger = await connect(address, context)
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await stranger.ask()
        assert mine.certificate is not None
        context.load_cert_chain(mine.certificate, mine.key)
        known = await connect(address, context)
        got = await known.ask()
        assert (got.status, len(upstream.seen)) == (200, 1)
        known.close()
        await controller.close()
        child.process.terminate()
        assert await child.process.wait() == 0


@pytest.mark.parametrize("wrong", ["another authority", "another name"])
def test_a_replica_that_is_not_who_it_should_be_gets_nothing(
    tmp_path: Path, authority: Authority, wrong: str
) -> None:
    @scenario
    async def run() -> None:
        by = Authority(tmp_path, "stranger") if wrong == "another authority" else authority
        name = "somebody.else" if wrong == "another name" else NAME
        async with encrypted_replica(by.issue(tmp_path / "back", "replica")) as upstream:
            tls: dict[str, Any] = {"replicas_tls": TlsFiles(authority=authority.path), "replicas_name": name}
            async with serving(tmp_path, model_at(upstream.port), queue_seconds=0.5, **tls) as rig:
                assert (await rig.ask()).status == 503
                assert not upstream.seen

    run()


async def subject(rig: Rig, context: ssl.SSLContext) -> str:
    """Whom the gateway's certificate names now."""
    host, port = rig.gateway.address
    talk = Talk(*await asyncio.open_connection(host, port, ssl=context, server_hostname=NAME))
    name = talk.peer()
    await talk.close()
    return name


def test_a_certificate_is_renewed_even_while_nobody_is_connected(
    tmp_path: Path, authority: Authority
) -> None:
    @scenario
    async def run() -> None:
        files, context = authority.issue(tmp_path / "front", "old"), trusting(authority)
        async with serving(tmp_path, model_at(), clients_tls=files) as rig:
            assert await subject(rig, context) == "old"
            await eventually(lambda: not rig.gateway.core.connections)
            await asyncio.sleep(1.2)
            authority.issue(tmp_path / "front", "new")
            await asyncio.sleep(2)
            assert await subject(rig, context) == "new", "the first who comes may meet it no more"

    run()


def test_streams_over_tls_end_in_peace_when_the_certificate_changes(
    tmp_path: Path, authority: Authority
) -> None:
    @scenario
    async def run() -> None:
        files, context = authority.issue(tmp_path / "front", "old"), trusting(authority)
        async with serving(tmp_path, model_at(), clients_tls=files) as rig:
            open_one = Talk(
                *await asyncio.open_connection(*rig.gateway.address, ssl=context, server_hostname=NAME)
            )
            authority.issue(tmp_path / "front", "new")
            await asyncio.sleep(1.7)
            connection = Connection(open_one._reader, open_one._writer)
            assert (await connection.ask("/livez", method="GET")).status == 200
            await open_one.close()

    run()
