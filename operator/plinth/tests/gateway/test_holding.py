"""Requests that wait in the gateway, and what the controller hears of it."""

# ruff: noqa: ARG001 - every behaviour takes the replica, the request and the writer, whatever it uses of them
from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path

import pytest

from plinth.domain.traffic import Availability, ReplicaState
from plinth.gateway.server import control
from plinth.tests.gateway.harness import (
    MODEL,
    STREAMING,
    Controller,
    Seen,
    Upstream,
    eventually,
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


@scenario
async def test_a_request_for_a_model_at_zero_replicas_is_reported_at_once_and_answered_later(
    tmp_path: Path,
) -> None:
    async with (
        replicas(stream(2)) as (upstream,),
        running_gateway(tmp_path, make_table(make_model())) as rig,
    ):
        await asyncio.sleep(0.1)
        asked = asyncio.ensure_future(rig.ask(body=STREAMING))
        assert await eventually(lambda: rig.controller.last.models[MODEL].queued == 1) < 0.1
        await asyncio.sleep(0.2)
        await rig.controller.apply(make_table(make_model(make_replica(upstream.port)), version=2))
        got = await asked
        assert got.body.endswith(b"[DONE]\n\n")
        load = rig.controller.last.models[MODEL]
        assert load.arrivals_total == 1
        assert await rig.metric("plinth_gateway_held_seconds_count") == 1


@scenario
async def test_a_replica_gets_no_more_than_it_holds_and_the_rest_in_order_of_arrival(tmp_path: Path) -> None:
    running = most = 0
    order: list[int] = []
    all_asked = asyncio.Event()

    async def count(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        order.append(json.loads(seen.body)["n"])
        await all_asked.wait()
        await asyncio.sleep(0.02)
        running -= 1
        writer.write(whole(b"{}"))

    async with (
        replicas(count) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port, concurrency=2)))) as rig,
    ):
        asked, model = [], rig.gateway.core.fleet.models[MODEL]
        for n in range(10):
            asked.append(asyncio.ensure_future(rig.ask(body={"model": "tiny", "n": n})))

            await eventually(lambda: len(model.calls) + len(model.queue) == len(asked))
        all_asked.set()
        assert [got.status for got in await asyncio.gather(*asked)] == [200] * 10
        await asyncio.sleep(0.6)
        assert max(report.models[MODEL].peak for _, report in rig.controller.reports if report.models) > 5
    assert most == 2
    assert order == sorted(order)


@scenario
async def test_a_client_that_hangs_up_while_held_leaves_the_queue(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, make_table(make_model())) as rig:
        connection = await rig.connect()
        connection.send(request_bytes())
        await eventually(lambda: rig.controller.last.models[MODEL].queued == 1)
        connection.close()
        await eventually(lambda: rig.controller.last.models[MODEL].queued == 0)
        assert rig.gateway.core.body_bytes == 0


@scenario
async def test_the_queue_is_bounded_and_a_held_request_ends_in_time(tmp_path: Path) -> None:
    table = make_table(make_model(message="the pool has no free GPU"))
    async with running_gateway(tmp_path, table, queue_requests=2, queue_seconds=0.5) as rig:
        held = [asyncio.ensure_future(rig.ask()) for _ in range(2)]
        await eventually(lambda: rig.controller.last.models[MODEL].queued == 2)
        full = await rig.ask()
        assert (full.status, full.code) == (429, "queue_full")
        assert full.headers["x-should-retry"] == "true"
        for got in await asyncio.gather(*held):
            assert (got.status, got.code) == (503, "no_replica_ready")
            assert "the pool has no free GPU" in got.json()["error"]["message"]
            assert got.headers["retry-after"] == "2", "nothing is known of the pace"


@scenario
async def test_a_model_that_cannot_come_is_refused_with_the_routes_message(tmp_path: Path) -> None:
    refused = make_model(availability=Availability.REFUSED, message="TP 3 does not divide 8 heads")
    async with running_gateway(tmp_path, make_table(make_model())) as rig:
        held = asyncio.ensure_future(rig.ask())
        await eventually(lambda: rig.controller.last.models[MODEL].queued == 1)
        await rig.controller.apply(make_table(refused, version=2))
        for got in (await held, await rig.ask()):
            assert (got.status, got.code) == (503, "model_unavailable")
            assert "TP 3 does not divide 8 heads" in got.json()["error"]["message"]
            assert got.headers["x-should-retry"] == "false"


@scenario
async def test_held_requests_of_a_model_that_was_removed_are_told_so(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, make_table(make_model())) as rig:
        held = asyncio.ensure_future(rig.ask())
        await eventually(lambda: rig.controller.last.models[MODEL].queued == 1)
        await rig.controller.apply(make_table(version=2))
        assert (await held).code == "model_not_found"


@scenario
async def test_a_draining_replica_ends_its_streams_gets_no_new_ones_and_is_reported_empty_at_once(
    tmp_path: Path,
) -> None:
    async with replicas(stream(30, every=0.01), stream(1)) as (old, new):
        going, staying = make_replica(old.port, slot="a"), make_replica(new.port, slot="b")
        async with running_gateway(tmp_path, make_table(make_model(going))) as rig:
            running = [asyncio.ensure_future(rig.ask(body=STREAMING)) for _ in range(3)]
            await eventually(lambda: len(old.seen) == 3)
            draining = make_replica(old.port, slot="a", state=ReplicaState.DRAINING)
            await rig.controller.apply(make_table(make_model(draining, staying), version=2))
            assert rig.controller.last.replicas["a"].in_flight == 3
            for _ in range(4):
                await rig.ask(body=STREAMING)
            assert len(new.seen) == 4
            for got in await asyncio.gather(*running):
                assert got.body.count(b"data: ") == 31
            assert await eventually(lambda: rig.controller.last.replicas["a"].in_flight == 0) < 0.1
            assert rig.controller.last.replicas["a"].state is ReplicaState.DRAINING


@scenario
async def test_a_replica_that_left_the_table_is_reported_until_its_streams_have_ended(tmp_path: Path) -> None:
    async with (
        replicas(stream(30, every=0.01)) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port, slot="a")))) as rig,
    ):
        running = asyncio.ensure_future(rig.ask(body=STREAMING))
        await eventually(lambda: upstream.seen)
        await rig.controller.apply(make_table(version=2))
        assert rig.controller.last.replicas["a"].in_flight == 1
        assert (await running).body.endswith(b"[DONE]\n\n")
        await eventually(lambda: "a" not in rig.controller.last.replicas)


@scenario
async def test_totals_and_objectives_are_counted_and_never_fall(tmp_path: Path) -> None:
    async with replicas(stream(20, every=0.02)) as (upstream,):
        table = make_table(make_model(make_replica(upstream.port)))
        async with running_gateway(tmp_path, table) as rig:
            await asyncio.gather(*[rig.ask(body=STREAMING) for _ in range(3)])
            await rig.controller.apply(make_table(version=2))
            await rig.controller.apply(make_table(table.models[0], version=3))
            load = rig.controller.last.models[MODEL]
            tokens = [r.models[MODEL].output_tokens_total for _, r in rig.controller.reports if r.models]
    assert (load.arrivals_total, load.completed_total, load.failed_total) == (3, 3, 0)
    assert load.output_tokens_total == 60
    assert (load.ttft_met_total, load.ttft_missed_total) == (3, 0)
    assert (load.tpot_met_total, load.tpot_missed_total) == (3, 0)
    assert tokens == sorted(tokens)


@scenario
async def test_reports_come_at_least_every_two_seconds_and_not_much_more_often_when_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (control.BUSY_SECONDS, control.QUIET_SECONDS) == (0.5, 2.0)
    monkeypatch.setattr(control, "QUIET_SECONDS", 0.4)
    async with running_gateway(tmp_path, make_table(make_model())) as rig:
        await asyncio.sleep(0.6)
        before = len(rig.controller.reports)
        await asyncio.sleep(1.5)
        times = [at for at, _ in rig.controller.reports[before - 1 :]]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert 2 <= len(gaps) <= 4
    assert min(gaps) > 0.3


@scenario
async def test_a_change_after_a_quiet_time_is_reported_within_half_a_second(tmp_path: Path) -> None:
    async with (
        replicas(None) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
    ):
        await asyncio.sleep(0.7)
        assert (await rig.ask()).status == 200
        took = await eventually(lambda: rig.controller.last.models[MODEL].completed_total == 1)
    assert took < 0.7


@scenario
async def test_reports_follow_twice_a_second_while_a_stream_runs(tmp_path: Path) -> None:
    async with (
        replicas(stream(120, every=0.01)) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
    ):
        await rig.ask(body=STREAMING)
        live = [r.models[MODEL].output_tokens_total for _, r in rig.controller.reports if r.models]
    assert len({count for count in live if 0 < count < 120}) >= 2


@scenario
async def test_the_newest_controller_wins_and_without_one_the_gateway_serves_on(tmp_path: Path) -> None:
    async with (
        replicas(None) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
    ):
        second = await Controller.connect(rig.socket)
        await eventually(lambda: rig.controller.closed and second.reports)
        assert second.last.table_version == 1
        assert second.last.gateway == rig.controller.last.gateway
        second.send(b'{"type":"poem"}\nrubbish\n')
        await second.close()
        assert (await rig.ask()).status == 200
        third = await Controller.connect(rig.socket)
        await eventually(lambda: third.reports)
        await third.apply(make_table(version=9))
        assert (await rig.ask()).code == "model_not_found"
        await third.close()
