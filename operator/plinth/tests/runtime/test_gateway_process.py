"""The real gateway process and the cycle's link to it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from plinth.cluster.gateway_link import GatewayLink
from plinth.cluster.processes import end_processes, find_instance_processes
from plinth.domain.traffic import RouteTable
from plinth.runtime.gateway_process import GatewayProcess, GatewayStartError, start_gateway, wait_until_ended
from plinth.tests.controllers import gateway_contract
from plinth.tests.controllers.test_cycle import FakeGateway


def instance() -> str:
    return f"test{os.getpid()}"


async def start(place: Path, port: int) -> GatewayProcess:
    secret = place / "secret"
    secret.write_text("s" * 40)
    return await start_gateway(
        instance(),
        host="127.0.0.1",
        port=port,
        control=place / "g.sock",
        secret_file=secret,
        log_file=place / "g.log",
    )


@pytest.fixture
async def listener() -> AsyncIterator[asyncio.Server]:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    yield server
    server.close()


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


async def free_port() -> int:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = port_of(server)
    server.close()
    await server.wait_closed()
    return port


def make_link(place: Path) -> GatewayLink:
    link = GatewayLink(place / "g.sock", first_version=1000, wake=lambda: None, clock=time.time)
    link.start()
    return link


async def test_the_fake_gateway_keeps_the_contract(listener: asyncio.Server) -> None:
    async def passing() -> None:
        await asyncio.sleep(0)

    await gateway_contract.holds(FakeGateway(), passing, replica_port=port_of(listener))


async def test_the_real_gateway_keeps_the_contract(tmp_path: Path, listener: asyncio.Server) -> None:
    gateway = await start(tmp_path, await free_port())
    link = make_link(tmp_path)
    try:
        await gateway_contract.holds(link, lambda: asyncio.sleep(0.05), replica_port=port_of(listener))
    finally:
        await link.close()
        await end_processes([gateway.process.pid], patience_seconds=3)


async def test_a_gateway_started_anew_gets_the_table_without_being_asked(tmp_path: Path) -> None:
    port = await free_port()
    first = await start(tmp_path, port)
    link = make_link(tmp_path)
    second = None
    try:
        version = link.send(gateway_contract.make_table())
        await gateway_contract.until(
            link, lambda: asyncio.sleep(0.05), lambda report: report.table_version == version
        )
        identity = link.latest_report()
        assert identity is not None
        await end_processes([first.process.pid], patience_seconds=3)
        second = await start(tmp_path, port)
        report = await gateway_contract.until(
            link,
            lambda: asyncio.sleep(0.05),
            lambda report: report.gateway != identity[0].gateway and report.table_version == version,
        )
        assert report.models.keys() == {"default/chat"}
    finally:
        await link.close()
        await end_processes([each.process.pid for each in (first, second) if each], patience_seconds=3)


async def test_a_taken_port_is_one_clear_line_and_leaves_no_process(
    tmp_path: Path, listener: asyncio.Server
) -> None:
    with pytest.raises(GatewayStartError, match=r"choose another with --listen HOST:PORT"):
        await start(tmp_path, port_of(listener))
    assert find_instance_processes(instance()) == []


async def test_a_gateway_asked_to_shut_down_ends_by_itself(tmp_path: Path) -> None:
    gateway = await start(tmp_path, await free_port())
    link = make_link(tmp_path)
    link.send(RouteTable(version=0, models=()))
    await gateway_contract.until(link, lambda: asyncio.sleep(0.05), lambda report: report.table_version > 0)
    link.shut_down(5)
    begun = time.monotonic()
    await wait_until_ended(gateway, 10)
    await link.close()
    assert not gateway.process.is_running()
    assert time.monotonic() - begun < 5
