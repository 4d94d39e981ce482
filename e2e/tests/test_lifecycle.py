"""Edits, scaling, version changes and deaths, under streams that must all end whole.

All happens to one `plinth up`, one thing after the other; each test has the model to itself, made anew.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from fleet import Fleet, make_model
from streams import StreamResult, many_streams, stream_once

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]

STREAMS = 20
STREAM_SECONDS = 30.0
"""Longer than any change here takes; each test holds its streams against its change."""
ROOMY = {"contextTokens": 2048, "concurrency": 20, "inputTokens": 256, "outputTokens": 1600}


@pytest.fixture(scope="module")
def lasting_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The fleet of all tests here."""
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    yield made
    made.clear()


@pytest.fixture
async def fleet(lasting_fleet: Fleet) -> AsyncIterator[Fleet]:
    """That fleet, up and without a model, whatever became of it in the test before."""
    if not lasting_fleet.is_up:
        lasting_fleet.up()
    yield lasting_fleet
    (lasting_fleet.folder / "models.yaml").unlink(missing_ok=True)
    if lasting_fleet.is_up:
        async with asyncio.timeout(60):
            while await lasting_fleet.replica_pids():
                await asyncio.sleep(0.2)


def complaints(results: list[StreamResult]) -> list[str]:
    return [result.complaint for result in results if result.complaint]


async def tokens_for(fleet: Fleet, seconds: float) -> int:
    """How many tokens make a stream of at least so long, with all streams at once; measured, not assumed."""
    tokens = 48
    begun = time.monotonic()
    results = await many_streams(fleet.url, "smollm2", count=STREAMS, tokens=tokens)
    assert complaints(results) == []
    return min(int(tokens * seconds / (time.monotonic() - begun) * 1.3), 1500)


async def change_during_streams(fleet: Fleet, change: Callable[[], Awaitable[None]]) -> None:
    """Make the change under streams that began before it and outlast it: all must end whole."""
    tokens = await tokens_for(fleet, STREAM_SECONDS)
    begun = time.monotonic()
    streams = asyncio.create_task(many_streams(fleet.url, "smollm2", count=STREAMS, tokens=tokens))
    await asyncio.sleep(1)
    await change()
    changed = time.monotonic() - begun
    results = await streams
    assert complaints(results) == []
    assert min(result.seconds for result in results) > changed, "not all streams outlasted the change"


async def test_no_stream_is_hurt_by_one_to_three_replicas_and_back(fleet: Fleet) -> None:
    def replicas(count: int) -> None:
        scaling = {"minReplicas": count, "maxReplicas": count, "quietSeconds": 1}
        fleet.write(make_model(objectives=ROOMY, scaling=scaling))

    replicas(1)
    await asyncio.to_thread(fleet.wait_ready)

    async def change() -> None:
        replicas(3)
        await asyncio.to_thread(fleet.wait_ready, 3)
        replicas(1)
        await asyncio.to_thread(fleet.wait, lambda status: status.desired_replicas == 1, seconds=20)

    await change_during_streams(fleet, change)
    await asyncio.to_thread(fleet.wait_ready, 1)


async def test_no_stream_is_hurt_by_a_version_change_and_the_old_revision_goes(fleet: Fleet) -> None:
    fleet.write(make_model(objectives=ROOMY))
    before = (await asyncio.to_thread(fleet.wait_ready)).revision

    async def change() -> None:
        fleet.write(make_model(objectives={**ROOMY, "concurrency": 21}))
        await asyncio.to_thread(
            fleet.wait, lambda status: status.answered_revision not in {"", before}, seconds=90
        )

    await change_during_streams(fleet, change)
    after = await asyncio.to_thread(fleet.wait_ready, 1)
    assert after.revision != before


async def test_a_broken_new_version_leaves_the_old_one_serving_and_says_why(fleet: Fleet) -> None:
    fleet.write(make_model())
    await asyncio.to_thread(fleet.wait_ready)
    fleet.write(make_model(engine={"type": "LlamaCpp", "args": {"n-batchh": "1"}}))
    status = await asyncio.to_thread(
        fleet.wait,
        lambda status: any(each.reason == "RolloutStuck" for each in status.conditions),
        seconds=90,
    )
    message = next(each.message for each in status.conditions if each.reason == "RolloutStuck")
    assert "n-batch" in message
    async with aiohttp.ClientSession() as session:
        assert (await stream_once(session, fleet.url, "smollm2", tokens=4)).complaint == ""
    fleet.write(make_model(engine={"kind": "LlamaCpp"}))
    status = await asyncio.to_thread(
        fleet.wait,
        lambda status: any(each.reason == "InvalidSpec" for each in status.conditions),
        seconds=20,
    )
    message = next(each.message for each in status.conditions if each.reason == "InvalidSpec")
    assert "spec.engine.kind" in message
    async with aiohttp.ClientSession() as session:
        assert (await stream_once(session, fleet.url, "smollm2", tokens=4)).complaint == ""


@pytest.mark.parametrize("in_flight", [0, 20])
async def test_a_killed_replica_is_noticed_within_a_second_and_replaced(fleet: Fleet, in_flight: int) -> None:
    fleet.write(make_model(objectives=ROOMY, scaling={"minReplicas": 2, "maxReplicas": 2}))
    await asyncio.to_thread(fleet.wait_ready, 2)
    victim = next(iter(await fleet.replica_pids()))
    streams = asyncio.create_task(many_streams(fleet.url, "smollm2", count=in_flight, tokens=60))
    await asyncio.sleep(1 if in_flight else 0)
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    await asyncio.sleep(1)
    # From here on, no request may meet the dead one.
    after = await many_streams(fleet.url, "smollm2", count=8, tokens=4)
    assert complaints(after) == []
    await asyncio.to_thread(fleet.wait_ready, 2)
    assert time.monotonic() - killed < 90
    results = await streams
    # A stream that had begun on the dead replica ends with an error event, never silently short.
    assert all(result.error or not result.complaint for result in results)
    assert victim not in await fleet.replica_pids()


async def test_load_brings_replicas_within_seconds_and_silence_takes_all_away(fleet: Fleet) -> None:
    fleet.write(
        make_model(
            objectives={**ROOMY, "concurrency": 20},
            scaling={"minReplicas": 0, "maxReplicas": 3, "quietSeconds": 8},
        )
    )
    await asyncio.to_thread(fleet.wait_ready, 1)
    streams = asyncio.create_task(many_streams(fleet.url, "smollm2", count=60, tokens=60))
    begun = time.monotonic()
    await asyncio.to_thread(fleet.wait, lambda status: status.replicas == 3, seconds=20)
    assert time.monotonic() - begun < 5
    assert complaints(await streams) == []
    asleep = await asyncio.to_thread(fleet.wait, lambda status: status.replicas == 0, seconds=60)
    ready = next(each for each in asleep.conditions if each.type == "Ready")
    assert (ready.status, ready.reason) == ("True", "ScaledToZero")
    async with aiohttp.ClientSession() as session:
        assert (await stream_once(session, fleet.url, "smollm2", tokens=4)).complaint == ""


async def test_ray_may_die_and_plinth_recovers_by_itself(fleet: Fleet) -> None:
    fleet.write(make_model())
    await asyncio.to_thread(fleet.wait_ready)
    ray = fleet.instance().process("ray")
    assert ray is not None
    os.kill(ray.pid, signal.SIGKILL)
    for pid in fleet.processes():
        if "raylet" in command_of(pid) or "gcs_server" in command_of(pid):
            os.kill(pid, signal.SIGKILL)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=150)) as session:
        await asyncio.sleep(2)
        held = await stream_once(session, fleet.url, "smollm2", tokens=4)
    assert held.complaint == ""
    await asyncio.to_thread(fleet.wait_ready)
    assert len(await fleet.replica_pids()) == 1


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


async def test_at_last_up_may_be_killed_and_the_next_one_takes_over_without_orphan_or_duplicate(
    fleet: Fleet,
) -> None:
    fleet.write(make_model())
    await asyncio.to_thread(fleet.wait_ready)
    before = fleet.instance()
    pids = await fleet.replica_pids()
    fleet.kill_up()
    async with aiohttp.ClientSession() as session:
        alone = await stream_once(session, fleet.url, "smollm2", tokens=8)
        assert alone.complaint == ""  # the gateway and the replica outlive the rest
        fleet.up()
        await asyncio.sleep(3)
        await asyncio.to_thread(fleet.wait_ready)
        assert (await stream_once(session, fleet.url, "smollm2", tokens=8)).complaint == ""
    after = fleet.instance()
    assert after.process("gateway") == before.process("gateway")
    assert after.process("ray") == before.process("ray")
    assert await fleet.replica_pids() == pids
    assert fleet.stop() == 0
    assert fleet.processes() == []
