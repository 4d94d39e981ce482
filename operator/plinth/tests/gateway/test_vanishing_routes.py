"""What becomes of requests whose route leaves the table, and what kubelet is told meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from plinth.domain.traffic import ReplicaState
from plinth.tests.gateway.harness import (
    STREAMING,
    eventually,
    make_model,
    make_replica,
    make_table,
    replicas,
    running_gateway,
    scenario,
    stream,
)

pytestmark = pytest.mark.process


@scenario
async def test_a_stream_ends_in_peace_though_its_route_has_vanished(tmp_path: Path) -> None:
    async with replicas(stream(30, every=0.02)) as (upstream,):
        there = make_replica(upstream.port)
        async with running_gateway(tmp_path, make_table(make_model(there))) as rig:
            running = asyncio.ensure_future(rig.ask(body=STREAMING))
            await eventually(lambda: upstream.seen)
            await rig.controller.apply(make_table(version=2))
            left = rig.controller.last.replicas[there.slot]
            assert (left.state, left.in_flight) == (ReplicaState.DRAINING, 1)
            assert (await rig.ask(body=STREAMING)).code == "model_not_found"
            assert (await running).body.endswith(b"[DONE]\n\n")
            await eventually(lambda: there.slot not in rig.controller.last.replicas)


@scenario
async def test_what_began_before_a_replica_left_and_came_back_is_still_counted(tmp_path: Path) -> None:
    async with replicas(stream(30, every=0.02)) as (upstream,):
        there = make_replica(upstream.port)
        async with running_gateway(tmp_path, make_table(make_model(there))) as rig:
            running = [asyncio.ensure_future(rig.ask(body=STREAMING))]
            await eventually(lambda: upstream.seen)
            await rig.controller.apply(make_table(version=2))
            await rig.controller.apply(make_table(make_model(there), version=3))
            running.append(asyncio.ensure_future(rig.ask(body=STREAMING)))
            await eventually(lambda: rig.controller.last.replicas[there.slot].in_flight == 2)
            assert rig.controller.last.replicas[there.slot].state is ReplicaState.READY
            assert all(got.body.endswith(b"[DONE]\n\n") for got in await asyncio.gather(*running))
            await eventually(lambda: rig.controller.last.replicas[there.slot].in_flight == 0)


@scenario
async def test_it_is_ready_from_the_first_table_on_and_alive_always(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as rig:
        before = await rig.ask("/readyz", method="GET")
        assert (before.status, before.body) == (503, b"no route table or no access table yet\n")
        assert (await rig.ask("/livez", method="GET")).status == 200
        await rig.controller.apply(make_table(version=1))
        assert (await rig.ask("/readyz", method="GET")).status == 200


@scenario
async def test_it_is_no_longer_ready_while_it_drains(tmp_path: Path) -> None:
    async with (
        replicas(stream(20, every=0.02)) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
    ):
        probe, client = await rig.connect(), await rig.connect()
        assert (await probe.ask("/readyz", method="GET")).status == 200
        running = asyncio.ensure_future(client.ask(body=STREAMING))
        await eventually(lambda: upstream.seen)
        rig.gateway.drain(5)
        draining = await probe.ask("/readyz", method="GET")
        assert (draining.status, draining.body) == (503, b"draining\n")
        assert (await running).body.endswith(b"[DONE]\n\n")
