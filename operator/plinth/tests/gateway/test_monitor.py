"""The port for Prometheus and probes: apart from the clients', who then get no metrics; else metrics are for keys."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest

from plinth.gateway.options import parse_options
from plinth.gateway.server.monitor import MOST_CONNECTIONS, MonitorServer
from plinth.tests.gateway.harness import (
    EVERYBODY,
    Answer,
    Connection,
    Controller,
    eventually,
    hang,
    make_model,
    make_replica,
    make_table,
    replicas,
    request_bytes,
    scenario,
    start_gateway_process,
)
from plinth.tests.gateway.wire.rig import bearer, make_access, model_at, serving

pytestmark = pytest.mark.process


async def ask(address: str, path: str = "/metrics", method: str = "GET", **headers: str) -> Answer:
    host, _, port = address.rpartition(":")
    connection = Connection(*await asyncio.open_connection(host, int(port)))
    try:
        connection.send(request_bytes(path, method=method, headers=headers))
        return await connection.answer(bodiless=method == "HEAD")
    finally:
        connection.close()


def test_a_port_out_of_range_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--listen=127.0.0.1:0", "--control=c", "--secret-file=s"]
    with pytest.raises(SystemExit):
        parse_options([*flags, "--metrics-port=70000"])
    assert "0 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_tells_probes_and_prometheus_without_a_key_what_clients_are_not_told(
    tmp_path: Path, workers: str
) -> None:
    @scenario
    async def run() -> None:
        gateway = await start_gateway_process(tmp_path, "--metrics-port=0", "--workers", workers)
        announced = json.loads(gateway.announced)
        apart, clients = announced["metrics"], announced["listening"]
        assert (await ask(apart, "/livez")).status == 200
        assert (await ask(apart, "/readyz")).status == 503
        controller = await Controller.connect(tmp_path / "g.sock", make_access())
        await controller.apply(make_table(make_model()))
        assert (await ask(apart, "/readyz")).status == 200
        shown = await ask(apart)
        assert shown.status == 200
        assert b"\nplinth_gateway_route_table_version 1.0\n" in shown.body
        assert (b"\nplinth_gateway_workers 2.0\n" in shown.body) == (workers == "2")
        assert (await ask(clients)).status == 401
        hidden = await ask(clients, **bearer())
        assert (hidden.status, hidden.code) == (404, "not_found")
        for status, answer in (
            (404, await ask(apart, "/v1/models")),
            (405, await ask(apart, method="POST")),
            (200, await ask(apart, method="HEAD")),
        ):
            assert answer.status == status
        await controller.close()
        gateway.process.send_signal(signal.SIGTERM)
        assert await gateway.process.wait() == 0

    run()


@scenario
async def test_it_says_that_a_gateway_drains_while_clients_cannot_connect_any_more(tmp_path: Path) -> None:
    async with replicas(hang) as (upstream,):
        gateway = await start_gateway_process(tmp_path, "--metrics-port=0")
        controller = await Controller.connect(tmp_path / "g.sock")
        await controller.apply(make_table(make_model(make_replica(upstream.port))))
        announced = json.loads(gateway.announced)
        host, _, port = announced["listening"].rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(request_bytes())
        await eventually(lambda: upstream.seen)
        gateway.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            while (found := await ask(announced["metrics"], "/readyz")).status == 200:
                await asyncio.sleep(0.01)
        assert found.body == b"draining\n"
        assert b"plinth_gateway_in_flight_requests" in (await ask(announced["metrics"])).body
        writer.close()
        await controller.close()
        await gateway.end()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_without_a_port_of_their_own_metrics_are_for_whoever_has_a_key_or_needs_none(
    tmp_path: Path, workers: str
) -> None:
    @scenario
    async def run() -> None:
        gateway = await start_gateway_process(tmp_path, "--workers", workers)
        clients = json.loads(gateway.announced)["listening"]
        controller = await Controller.connect(tmp_path / "g.sock", make_access())
        await controller.apply(make_table(make_model()))
        assert (await ask(clients)).status == 401
        assert (await ask(clients, **bearer())).status == 200
        await controller.close()
        controller = await Controller.connect(tmp_path / "g.sock", EVERYBODY)
        async with asyncio.timeout(5):
            while (await ask(clients)).status != 200:
                await asyncio.sleep(0.01)
        await controller.close()
        gateway.process.send_signal(signal.SIGTERM)
        assert await gateway.process.wait() == 0

    run()


@scenario
async def test_who_says_nothing_is_hung_up_on_and_more_than_a_few_are_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("plinth.gateway.server.monitor.ANSWER_SECONDS", 0.3)

    async def metrics() -> bytes:
        return b"some 1\n"

    monitor = MonitorServer(metrics=metrics, readiness=lambda: (200, [], b"ok\n"))
    await monitor.listen("127.0.0.1", 0)
    address = "{}:{}".format(*monitor.address)
    silent = [await asyncio.open_connection(*monitor.address) for _ in range(MOST_CONNECTIONS)]
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await ask(address)
    for reader, writer in silent:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(1)
        writer.close()
    assert (await ask(address)).body == b"some 1\n"
    _, writer = await asyncio.open_connection(*monitor.address)
    writer.write(b"x" * 100_000)  # no head ends here
    await asyncio.sleep(0.05)
    assert (await ask(address)).status == 200
    writer.close()
    monitor.close()


@scenario
async def test_the_document_names_the_models_that_the_key_may_ask(tmp_path: Path) -> None:
    access = make_access()
    async with (
        replicas(None) as (upstream,),
        serving(tmp_path, model_at(upstream.port), access=access) as rig,
    ):

        async def examples(**headers: str) -> str:
            found = await rig.ask("/openapi.json", method="GET", headers=headers)
            assert found.status == 200
            return found.body.decode()

        assert '"model":"tiny"' in await examples(**bearer())
        assert '"model":"tiny"' not in await examples()
        assert '"model":"tiny"' not in await examples(**bearer("sk-plinth-unknown"))
        await rig.admit_by(EVERYBODY)
        assert '"model":"tiny"' in await examples()
