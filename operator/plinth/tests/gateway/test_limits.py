"""Every limit on sizes and times holds, and says so."""

# ruff: noqa: ARG001 - every behaviour takes the replica, the request and the writer, whatever it uses of them
from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from plinth.gateway.options import Limits, parse_options
from plinth.tests.gateway.harness import (
    STREAMING,
    Seen,
    Upstream,
    event,
    eventually,
    framed,
    hang,
    make_model,
    make_replica,
    make_table,
    replicas,
    request_bytes,
    running_gateway,
    scenario,
)


@scenario
async def test_a_body_too_large_is_refused_while_the_client_still_sends(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, make_table(make_model()), body_bytes=10_000) as rig:
        connection = await rig.connect()
        connection.send(request_bytes(body=b"x" * 3_000_000))
        got = await connection.answer()
    assert (got.status, got.code) == (413, "request_too_large")
    assert got.headers["connection"] == "close"


@scenario
async def test_a_head_too_large_is_refused(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, make_table(make_model()), head_bytes=2000) as rig:
        got = await rig.ask(headers={"X-Long": "a" * 3000})
    assert (got.status, got.code) == (431, "headers_too_large")


@scenario
async def test_smuggling_is_refused_and_the_connection_ends(tmp_path: Path) -> None:
    async with (
        replicas(None) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
    ):
        connection = await rig.connect()
        connection.send(request_bytes(headers={"Transfer-Encoding": "chunked"}) + request_bytes())
        got = await connection.answer()
        rest = await connection.reader.read()
    assert got.status == 400
    assert rest == b""
    assert upstream.seen == []


@scenario
async def test_all_bodies_together_are_bounded(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"all_body_bytes": 250_000, "body_bytes": 100_000}
    async with running_gateway(tmp_path, make_table(make_model()), **limits) as rig:
        body = {"model": "tiny", "pad": "x" * 90_000}
        for _ in range(2):
            (await rig.connect()).send(request_bytes(body=body))
        await eventually(lambda: rig.controller.last.models["team/tiny"].queued == 2)
        got = await rig.ask(body=body)
        assert (got.status, got.code) == (503, "gateway_overloaded")
        assert got.headers["retry-after"] == "1"
        assert rig.gateway.core.body_bytes < 250_000


@scenario
async def test_connections_are_bounded(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, make_table(make_model()), connections=2) as rig:
        kept = [await rig.connect() for _ in range(2)]
        await eventually(lambda: len(rig.gateway.core.connections) == 2)
        third = await rig.connect()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await third.ask("/health", method="GET")
        assert (await kept[0].ask("/health", method="GET")).status == 200


@scenario
async def test_slow_requests_and_idle_connections_end_in_time(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"header_seconds": 0.4, "body_seconds": 0.4, "keep_alive_seconds": 0.4}
    async with running_gateway(tmp_path, make_table(make_model()), **limits) as rig:
        slow_head, slow_body, idle, silent = [await rig.connect() for _ in range(4)]
        slow_head.send(b"POST /v1/completions HT")
        slow_body.send(request_bytes()[:-3])
        await idle.ask("/health", method="GET")
        for connection in (slow_head, slow_body):
            got = await connection.answer()
            assert (got.status, got.code) == (408, "request_timeout")
        assert await idle.reader.read() == b""
        assert await silent.reader.read() == b""


@scenario
async def test_a_replica_without_a_first_byte_is_given_up_with_504(tmp_path: Path) -> None:
    async with (
        replicas(hang) as (upstream,),
        running_gateway(
            tmp_path, make_table(make_model(make_replica(upstream.port))), first_byte_seconds=0.3
        ) as rig,
    ):
        connection = await rig.connect()
        got = await connection.ask()
        assert (got.status, got.code) == (504, "replica_timeout")
        assert got.headers["x-should-retry"] == "false"
        await eventually(lambda: upstream.seen[0].hung_up)
        assert (await connection.ask("/health", method="GET")).status == 200


@scenario
async def test_a_stream_that_falls_silent_ends_with_an_error_event(tmp_path: Path) -> None:
    async def stall(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        writer.write(framed(event("t0")))
        await asyncio.sleep(3600)

    async with (
        replicas(stall) as (upstream,),
        running_gateway(
            tmp_path,
            make_table(make_model(make_replica(upstream.port))),
            stream_idle_seconds=0.3,
            resume_seconds=0.5,
        ) as rig,
    ):
        got = await rig.ask(body=STREAMING)
    assert got.complete
    assert b"stream_broken" in got.body


BASE = ["--listen", "127.0.0.1:8080", "--control", "/tmp/c", "--secret-file", "/tmp/s"]  # noqa: S108 - not opened


def test_every_limit_is_a_flag() -> None:
    names = Limits.__dataclass_fields__
    flags = [part for name in names for part in ("--" + name.replace("_", "-"), "7")]
    options = parse_options(BASE + flags)
    assert options.limits == Limits(**dict.fromkeys(names, 7))
    assert parse_options(BASE).limits == Limits()
    assert (options.host, options.port) == ("127.0.0.1", 8080)


def test_an_ipv6_address_is_listened_on() -> None:
    assert parse_options(["--listen", "[::1]:80", *BASE[2:]]).host == "::1"


@pytest.mark.parametrize("wrong", [["--listen", "nowhere"], ["--attempts", "0"], ["--header-seconds", "-1"]])
def test_a_wrong_flag_is_refused_by_name(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_options(BASE + wrong)
    assert stopped.value.code == 2
    assert wrong[0] in capsys.readouterr().err
