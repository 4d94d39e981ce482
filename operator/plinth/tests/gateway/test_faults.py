"""What goes wrong at replicas and clients, and what the other side sees of it."""

# ruff: noqa: ARG001 - every behaviour takes the replica, the request and the writer, whatever it uses of them
from __future__ import annotations

import asyncio
import json
import socket
import struct
from pathlib import Path

import pytest

from plinth.tests.gateway.harness import (
    STREAM_HEAD,
    STREAMING,
    Behaviour,
    Seen,
    Upstream,
    answer,
    close,
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
    stream,
    whole,
)

pytestmark = pytest.mark.process


async def head_then_close(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD)
    await writer.drain()
    writer.close()


async def rubbish(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")


@pytest.mark.parametrize(
    "failing",
    [close, head_then_close, rubbish, answer({"error": "loading"}, "503 Service Unavailable")],
    ids=["closed", "closed after the head", "no HTTP", "not ready"],
)
def test_a_failure_before_the_first_byte_is_answered_by_another_replica(
    tmp_path: Path, failing: Behaviour
) -> None:
    @scenario
    async def run() -> None:
        async with replicas(failing, stream(3)) as (bad, good):
            table = make_table(
                make_model(make_replica(bad.port, slot="a"), make_replica(good.port, slot="b"))
            )
            async with running_gateway(tmp_path, table) as rig:
                got = await rig.ask(body=STREAMING)
                assert await rig.metric("plinth_gateway_retries_total") == 1
            assert got.status == 200
            assert got.body.count(b"data: ") == 4
            assert (len(bad.seen), len(good.seen)) == (1, 1)
            assert bad.seen[0].body == good.seen[0].body

    run()


@scenario
async def test_a_replica_that_cannot_be_connected_to_is_passed_over(tmp_path: Path) -> None:
    async with replicas(None) as (good,):
        table = make_table(make_model(make_replica(1, slot="a"), make_replica(good.port, slot="b")))
        async with running_gateway(tmp_path, table) as rig:
            assert (await rig.ask()).status == 200


@scenario
async def test_attempts_are_bounded_and_the_client_learns_why(tmp_path: Path) -> None:
    async with (
        replicas(close, close, close, close) as found,
        running_gateway(
            tmp_path, make_table(make_model(*[make_replica(u.port) for u in found])), attempts=3
        ) as rig,
    ):
        got = await rig.ask()
    assert (got.status, got.code) == (503, "replica_failed")
    assert "3 tried" in got.json()["error"]["message"]
    assert sum(len(u.seen) for u in found) == 3
    assert max(len(u.seen) for u in found) == 1


@scenario
async def test_a_lone_replica_that_is_not_ready_is_asked_again_after_a_pause(tmp_path: Path) -> None:
    async def ready_later(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
        ready = len(upstream.seen) > 1
        await answer(None if ready else {"error": "loading"}, "200 OK" if ready else "503 Not Yet")(
            upstream, seen, writer
        )

    async with (
        replicas(ready_later) as (upstream,),
        running_gateway(
            tmp_path, make_table(make_model(make_replica(upstream.port))), cooldown_seconds=0.2
        ) as rig,
    ):
        began = asyncio.get_running_loop().time()
        assert (await rig.ask()).status == 200
        assert 0.15 < asyncio.get_running_loop().time() - began < 1.0


@scenario
async def test_a_stream_that_may_not_go_on_elsewhere_ends_with_one_error_event(tmp_path: Path) -> None:
    async with replicas(stream(5, every=0.02, die_after=2), stream(5)) as (bad, good):
        table = make_table(make_model(make_replica(bad.port, slot="a"), make_replica(good.port, slot="b")))
        async with running_gateway(tmp_path, table, resume_seconds=0.0) as rig:
            got = await rig.ask(body=STREAMING)
            broken = await rig.metric("plinth_gateway_broken_streams_total")
            tokens = rig.gateway.core.fleet.models["team/tiny"].load().output_tokens_total
    assert got.complete  # well framed to the end
    assert got.body.startswith(event("t0") + event("t1"))
    last = got.body.split(b"\n\n")[-2]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "stream_broken"
    assert b"[DONE]" not in got.body
    assert good.seen == []
    assert broken == 1
    assert tokens == 2


@scenario
async def test_half_an_event_is_not_passed_on_before_the_error(tmp_path: Path) -> None:
    async def half(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + framed(event("t0") + b'data: {"half'))
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.transport.abort()

    async with (
        replicas(half) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
    ):
        got = await rig.ask(body=STREAMING)
    assert b"half" not in got.body
    assert [json.loads(item.removeprefix(b"data: ")) for item in got.body.split(b"\n\n")[:-1]][1]["error"]


@pytest.mark.parametrize("chunked", [True, False])
def test_a_truncated_answer_is_never_made_to_look_complete(tmp_path: Path, *, chunked: bool) -> None:
    async def truncated(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
        if chunked:
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + framed(b'{"choices":'))
        else:
            writer.write(whole(b"x" * 1000)[:-500])
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.close()

    @scenario
    async def run() -> None:
        async with (
            replicas(truncated) as (upstream,),
            running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
        ):
            got = await rig.ask()
        assert got.status == 200
        assert not got.complete

    run()


@scenario
async def test_an_answer_without_an_end_of_its_own_is_refused(tmp_path: Path) -> None:
    async def endless(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n{}")
        writer.close()

    async with (
        replicas(endless) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
    ):
        got = await rig.ask()
    assert (got.status, got.code) == (502, "invalid_replica_answer")


@scenario
async def test_a_replica_that_refuses_the_secret_is_not_blamed_on_the_client(tmp_path: Path) -> None:
    async with (
        replicas(answer({"error": "no"}, "401 Unauthorized")) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
    ):
        got = await rig.ask()
    assert got.status == 502
    assert "secret" in got.json()["error"]["message"]


@pytest.mark.parametrize("behave", [hang, stream(1000, every=0.02)], ids=["before a byte", "in a stream"])
def test_a_client_that_hangs_up_ends_the_replicas_work_at_once(tmp_path: Path, behave: Behaviour) -> None:
    @scenario
    async def run() -> None:
        async with (
            replicas(behave) as (upstream,),
            running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
        ):
            connection = await rig.connect()
            connection.send(request_bytes(body=STREAMING))
            await eventually(lambda: upstream.seen)
            await asyncio.sleep(0.05)
            connection.close()
            assert await eventually(lambda: upstream.seen[0].hung_up) < 0.2
            await eventually(lambda: rig.gateway.core.fleet.models["team/tiny"].calls == set())
            assert await rig.metric("plinth_gateway_client_disconnects_total") == 1
            assert rig.gateway.core.body_bytes == 0

    run()


@scenario
async def test_a_slow_client_bounds_memory_and_stops_the_replica(tmp_path: Path) -> None:
    produced = 0

    async def flood(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal produced
        writer.write(STREAM_HEAD)
        for _ in range(20_000):
            data = framed(event("x" * 2000))
            writer.write(data)
            await writer.drain()
            produced += len(data)
        writer.write(b"0\r\n\r\n")

    async with (
        replicas(flood) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
    ):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(rig.gateway.address)
        reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
        writer.write(request_bytes(body=STREAMING))
        await asyncio.sleep(0.5)
        stuck = produced
        await asyncio.sleep(0.3)
        assert produced == stuck  # the replica waits
        assert stuck < 16_000_000  # kernel buffers on both hops; 40 MB were on offer
        held = [c._transport.get_write_buffer_size() for c in rig.gateway.core.connections if c._transport]
        assert max(held) < 1_000_000
        total = 0
        while total < stuck + 1_000_000:
            total += len(await reader.read(65536))
        assert produced > stuck  # and goes on
        writer.close()


@scenario
async def test_a_client_reset_while_bytes_wait_for_it_leaves_nothing_behind(tmp_path: Path) -> None:
    async with (
        replicas(stream(10_000)) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
    ):
        connection = await rig.connect()
        connection.send(request_bytes(body=STREAMING))
        await connection.head()
        sock = connection.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.writer.transport.abort()
        await eventually(lambda: not rig.gateway.core.connections)
        await eventually(lambda: len(upstream.writers) == 1)  # the sentinel's
        assert rig.gateway.core.body_bytes == 0
