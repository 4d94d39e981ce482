"""The gateway as the process that it is: start, memory, idleness, signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from pathlib import Path

import pytest

from plinth.domain.control_lines import encode_shutdown
from plinth.tests.gateway.harness import (
    STREAMING,
    Answer,
    Child,
    Connection,
    Controller,
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

pytestmark = pytest.mark.process


def address(gateway: Child) -> tuple[str, int]:
    host, _, port = json.loads(gateway.announced)["listening"].rpartition(":")
    return host, int(port)


async def connect(gateway: Child) -> Connection:
    return Connection(*await asyncio.open_connection(*address(gateway)))


async def ask_once(gateway: Child, *args: object, **kwargs: object) -> Answer:
    connection = await connect(gateway)
    try:
        return await connection.ask(*args, **kwargs)
    finally:
        connection.close()


def rss_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@scenario
async def test_memory_stays_small_under_load_and_the_process_rests_when_idle(tmp_path: Path) -> None:
    gateway = await start_gateway_process(tmp_path)
    pid = gateway.process.pid
    async with replicas(stream(20, every=0.01), stream(20, every=0.01)) as found:
        controller = await Controller.connect(tmp_path / "g.sock")
        await controller.apply(make_table(make_model(*[make_replica(u.port) for u in found])))
        answers = await asyncio.gather(*[ask_once(gateway, body=STREAMING) for _ in range(200)])
        assert all(got.body.endswith(b"[DONE]\n\n") for got in answers)
        assert rss_mib(pid) < 60
        await asyncio.sleep(0.7)
        before = cpu_seconds(pid)
        await asyncio.sleep(2.0)
        assert cpu_seconds(pid) - before < 0.025  # 1% of a core; the clock ticks in 0.01 s
        await controller.close()
    await gateway.end()


@scenario
async def test_the_control_socket_is_for_its_owner_only(tmp_path: Path) -> None:
    gateway = await start_gateway_process(tmp_path)
    mode = (tmp_path / "g.sock").stat().st_mode
    await gateway.end()
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


@scenario
async def test_what_cannot_start_says_so_in_one_line(tmp_path: Path) -> None:
    gateway = await start_gateway_process(tmp_path)
    host, port = address(gateway)
    for change in (
        {"--listen": f"{host}:{port}", "--control": str(tmp_path / "other.sock")},
        {"--control": str(tmp_path / "g.sock")},
        {"--secret-file": str(tmp_path / "missing")},
    ):
        flags = {
            "--listen": "127.0.0.1:0",
            "--control": str(tmp_path / "third.sock"),
            "--secret-file": str(tmp_path / "secret"),
        } | change
        arguments = [part for item in flags.items() for part in item]
        second = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "plinth.gateway",
            *arguments,
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        )
        _, text = await second.communicate()
        assert second.returncode == 1
        assert text.decode().count("\n") == 1
        assert text.startswith(b"plinth.gateway: cannot ")
    assert (await ask_once(gateway, "/health", method="GET")).status == 200
    await gateway.end()


@scenario
async def test_a_socket_left_by_a_killed_gateway_is_taken_over(tmp_path: Path) -> None:
    first = await start_gateway_process(tmp_path)
    first.process.kill()
    await first.process.wait()
    assert (tmp_path / "g.sock").exists()
    second = await start_gateway_process(tmp_path)
    controller = await Controller.connect(tmp_path / "g.sock")
    await eventually(lambda: controller.reports)
    await controller.close()
    await second.end()


def test_sigterm_lets_streams_end_then_leaves(tmp_path: Path) -> None:
    _drains(tmp_path, by_signal=True)


def test_a_shutdown_line_lets_streams_end_then_leaves(tmp_path: Path) -> None:
    _drains(tmp_path, by_signal=False)


def _drains(tmp_path: Path, *, by_signal: bool) -> None:
    @scenario
    async def run() -> None:
        gateway = await start_gateway_process(tmp_path)
        async with replicas(stream(40, every=0.02)) as (upstream,):
            controller = await Controller.connect(tmp_path / "g.sock")
            await controller.apply(make_table(make_model(make_replica(upstream.port))))
            kept = await connect(gateway)
            assert (await kept.ask("/health", method="GET")).status == 200
            running = asyncio.ensure_future(ask_once(gateway, body=STREAMING))
            await eventually(lambda: upstream.seen)
            if by_signal:
                gateway.process.send_signal(signal.SIGTERM)
            else:
                controller.send(encode_shutdown(10))
            await asyncio.sleep(0.1)
            draining = await kept.ask("/health", method="GET")
            assert (draining.status, draining.json()["status"]) == (503, "draining")
            assert draining.headers["connection"] == "close"
            try:
                await ask_once(gateway, "/health", method="GET")
            except ConnectionRefusedError:
                pass
            else:
                raise AssertionError("it still accepts")
            assert (await running).body.endswith(b"[DONE]\n\n")
            assert await gateway.process.wait() == 0
            assert not (tmp_path / "g.sock").exists()
            kept.close()
            await controller.close()

    run()


@scenario
async def test_the_drain_has_a_deadline(tmp_path: Path) -> None:
    gateway = await start_gateway_process(tmp_path)
    async with replicas(stream(1000, every=0.02)) as (upstream,):
        controller = await Controller.connect(tmp_path / "g.sock")
        await controller.apply(make_table(make_model(make_replica(upstream.port))))
        connection = await connect(gateway)
        connection.send(request_bytes(body=STREAMING))
        await eventually(lambda: upstream.seen)
        controller.send(encode_shutdown(0.3))
        async with asyncio.timeout(2):
            assert await gateway.process.wait() == 0
        assert not (await connection.answer()).complete
        connection.close()
        await controller.close()
