"""Replicas that take requests and never answer, and replicas that fail all of them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from plinth.domain.traffic import ReplicaState
from plinth.tests.gateway.harness import (
    MODEL,
    STREAMING,
    Seen,
    Upstream,
    answer,
    close,
    eventually,
    hang,
    replicas,
    scenario,
    start_replica_process,
    stream,
)
from plinth.tests.gateway.wire.rig import model_at, serving

pytestmark = pytest.mark.process


@pytest.mark.parametrize("streams", [False, True])
def test_a_request_at_a_stopped_process_goes_on_elsewhere_and_the_process_is_back_when_it_runs_again(
    tmp_path: Path, *, streams: bool
) -> None:
    @scenario
    async def run() -> None:
        child, port = await start_replica_process("stream(3)" if streams else "answer()")
        async with (
            replicas(stream(3) if streams else answer()) as (other,),
            serving(tmp_path, model_at(port, other.port), connect_seconds=0.3, silent_seconds=0.5) as rig,
        ):
            body = STREAMING | {"stream": streams}
            assert (await rig.ask(body=body)).status == 200
            assert not other.seen, "equal replicas are taken in order"
            os.kill(child.process.pid, signal.SIGSTOP)
            began = time.monotonic()
            answers = await asyncio.gather(*[rig.ask(body=body) for _ in range(10)])
            assert {got.status for got in answers} == {200}
            assert time.monotonic() - began < 3
            assert rig.controller.last.replicas["a.0"].state is ReplicaState.DEAD
            assert "answers nothing" in rig.controller.last.replicas["a.0"].detail
            os.kill(child.process.pid, signal.SIGCONT)
            standings = rig.gateway.core.fleet.models[MODEL].standings
            await eventually(lambda: all(standing.available for standing in standings))
            await child.end()

    run()


@scenario
async def test_a_replica_that_is_only_slow_keeps_its_request(tmp_path: Path) -> None:
    async with (
        replicas(None, None) as (slow, other),
        serving(tmp_path, model_at(slow.port, other.port), connect_seconds=0.3, silent_seconds=0.5) as rig,
    ):

        async def slowly(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
            if "/v1/models" not in seen.line:
                await asyncio.sleep(2)
            await answer()(upstream, seen, writer)

        slow.behave = slowly
        assert (await rig.ask()).status == 200
        assert not other.seen
        assert [seen.line.split()[1].endswith("/v1/models") for seen in slow.seen] == [False, True]


@scenario
async def test_when_all_replicas_hang_the_request_waits_for_one_and_is_refused_in_the_end(
    tmp_path: Path,
) -> None:
    async with (
        replicas(hang, hang) as (one, other),
        serving(
            tmp_path,
            model_at(one.port, other.port),
            connect_seconds=0.2,
            silent_seconds=0.5,
            queue_seconds=2.5,
        ) as rig,
    ):
        got = await rig.ask()
        assert (got.status, got.code) == (503, "no_replica_ready")
        assert sum("/v1/chat" in seen.line for upstream in (one, other) for seen in upstream.seen) == 2


@scenario
async def test_failures_are_repeated_within_a_budget_and_no_storm_begins(tmp_path: Path) -> None:
    async with (
        replicas(close, close, close) as upstreams,
        serving(tmp_path, model_at(*(each.port for each in upstreams)), silent_seconds=0.5) as rig,
    ):
        began, asked = time.monotonic(), 300
        for _ in range(asked // 30):
            answers = await asyncio.gather(*[rig.ask() for _ in range(30)])
            assert {(got.status, got.headers["x-should-retry"]) for got in answers} == {(503, "true")}
        budget = 100 + 0.2 * asked + 10 * (time.monotonic() - began)
        tried = sum(len(each.seen) for each in upstreams)
        assert asked < tried <= asked + budget < 3 * asked
