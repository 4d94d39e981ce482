"""Death and return of replicas, noticed with and without requests in flight."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from plinth.domain.traffic import ReplicaState
from plinth.gateway.server import sentinel
from plinth.tests.gateway.harness import (
    STREAMING,
    Rig,
    Upstream,
    eventually,
    make_model,
    make_replica,
    make_table,
    replicas,
    running_gateway,
    scenario,
    start_replica_process,
    stream,
)

pytestmark = pytest.mark.process


def state_of(rig: Rig, slot: str) -> ReplicaState:
    return rig.controller.last.replicas[slot].state


@pytest.mark.parametrize("in_flight", [0, 20])
def test_a_killed_replica_is_reported_within_a_second(tmp_path: Path, in_flight: int) -> None:
    @scenario
    async def run() -> None:
        child, port = await start_replica_process("stream(10000, every=0.05)")
        async with replicas(stream(2)) as (other,):
            table = make_table(make_model(make_replica(port, slot="a"), make_replica(other.port, slot="b")))
            async with running_gateway(tmp_path, table, resume_seconds=0.0) as rig:
                await rig.controller.apply(make_table(make_model(make_replica(port, slot="a")), version=2))
                streams = [asyncio.ensure_future(rig.ask(body=STREAMING)) for _ in range(in_flight)]
                await eventually(lambda: rig.controller.last.models["team/tiny"].in_flight == in_flight)
                await asyncio.sleep(0.1)
                await rig.controller.apply(make_table(table.models[0], version=3))
                child.process.kill()
                took = await eventually(lambda: state_of(rig, "a") is ReplicaState.DEAD, 3)
                assert took < 1.0
                assert rig.controller.last.replicas["a"].detail
                for got in await asyncio.gather(*streams):
                    assert b"stream_broken" in got.body
                # No new request goes to the dead one.
                for _ in range(5):
                    assert (await rig.ask(body=STREAMING)).body.endswith(b"[DONE]\n\n")
                assert len(other.seen) == 5
                assert await rig.metric("plinth_gateway_replica_deaths_total") == 1
        await child.end()

    run()


@scenario
async def test_requests_without_a_byte_move_from_a_killed_replica_to_another(tmp_path: Path) -> None:
    child, port = await start_replica_process("hang")
    async with replicas(stream(3)) as (other,):
        dying = make_replica(port, slot="a")
        async with running_gateway(tmp_path, make_table(make_model(dying))) as rig:
            asked = [asyncio.ensure_future(rig.ask(body=STREAMING)) for _ in range(20)]
            await eventually(lambda: rig.controller.last.models["team/tiny"].in_flight == 20)
            await rig.controller.apply(
                make_table(make_model(dying, make_replica(other.port, slot="b")), version=2)
            )
            child.process.kill()
            answers = await asyncio.gather(*asked)
    await child.end()
    assert [got.status for got in answers] == [200] * 20
    assert all(got.body.endswith(b"[DONE]\n\n") for got in answers)


@scenario
async def test_requests_of_a_lone_killed_replica_wait_for_its_replacement(tmp_path: Path) -> None:
    child, port = await start_replica_process("hang")
    async with (
        replicas(stream(3)) as (other,),
        running_gateway(tmp_path, make_table(make_model(make_replica(port, slot="a")))) as rig,
    ):
        asked = [asyncio.ensure_future(rig.ask(body=STREAMING)) for _ in range(5)]
        await eventually(lambda: rig.controller.last.models["team/tiny"].in_flight == 5)
        child.process.kill()
        await eventually(lambda: rig.controller.last.models["team/tiny"].queued == 5)
        await eventually(lambda: state_of(rig, "a") is ReplicaState.DEAD)
        await rig.controller.apply(make_table(make_model(make_replica(other.port, slot="b")), version=2))
        answers = await asyncio.gather(*asked)
    await child.end()
    assert all(got.body.endswith(b"[DONE]\n\n") for got in answers)


@scenario
async def test_a_server_that_closes_idle_connections_is_not_dead(tmp_path: Path) -> None:
    async with replicas(None) as (upstream,):
        upstream.idle_seconds = 0.3
        async with running_gateway(
            tmp_path, make_table(make_model(make_replica(upstream.port, slot="a")))
        ) as rig:
            for _ in range(4):
                await asyncio.sleep(0.3)
                assert (await rig.ask()).status == 200
            reported = {report.replicas["a"].state for _, report in rig.controller.reports if report.replicas}
            assert reported == {ReplicaState.READY}
            assert 4 <= upstream.connections < 20


@scenario
async def test_a_server_that_accepts_and_closes_at_once_does_not_make_the_gateway_spin(
    tmp_path: Path,
) -> None:
    async with replicas(None) as (upstream,):
        upstream.idle_seconds = 0.0
        async with running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))):
            await asyncio.sleep(1.0)
    assert upstream.connections < 12


@scenario
async def test_a_dead_replica_that_can_be_reached_again_gets_requests_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinel, "RETRY_DEAD_SECONDS", 0.05)
    upstream = Upstream()
    await upstream.start()
    port = upstream.port
    async with running_gateway(tmp_path, make_table(make_model(make_replica(port, slot="a")))) as rig:
        await upstream.stop()
        await eventually(lambda: state_of(rig, "a") is ReplicaState.DEAD)
        asked = asyncio.ensure_future(rig.ask())
        await eventually(lambda: rig.controller.last.models["team/tiny"].queued == 1)
        await upstream.start(port)
        await eventually(lambda: state_of(rig, "a") is ReplicaState.READY)
        assert (await asked).status == 200
    await upstream.stop()


@scenario
async def test_a_host_that_vanished_without_a_word_is_found_by_the_active_check(tmp_path: Path) -> None:
    # A full backlog that nobody accepts from drops every new connection's first packet, as a vanished host does,
    # and the connection made before stays open without a word.
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        table = make_table(make_model(make_replica(silent.getsockname()[1], slot="a")))
        async with running_gateway(tmp_path, table, check_seconds=0.3, connect_seconds=0.2) as rig:
            assert state_of(rig, "a") is ReplicaState.READY
            await eventually(lambda: state_of(rig, "a") is ReplicaState.DEAD, 3)


@scenario
async def test_a_slot_whose_address_changed_is_another_replica(tmp_path: Path) -> None:
    async with (
        replicas(stream(20, every=0.02), stream(1)) as (old, new),
        running_gateway(tmp_path, make_table(make_model(make_replica(old.port, slot="a")))) as rig,
    ):
        running = asyncio.ensure_future(rig.ask(body=STREAMING))
        await eventually(lambda: old.seen)
        await rig.controller.apply(make_table(make_model(make_replica(new.port, slot="a")), version=2))
        assert (await rig.ask(body=STREAMING)).body.count(b"data: ") == 2
        assert (await running).body.count(b"data: ") == 21
        assert len(new.seen) == 1
        with contextlib.suppress(AssertionError):
            await eventually(lambda: not old.writers, 0.5)
        assert not old.writers  # sentinel and pool of the old place are closed
