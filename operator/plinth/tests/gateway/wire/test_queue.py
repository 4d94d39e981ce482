"""Requests that wait for room: whose turn it is, who is refused and what it is told, who goes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest

from plinth.domain.access import Band
from plinth.tests.gateway.harness import (
    MODEL,
    Answer,
    Rig,
    Seen,
    Upstream,
    answer,
    eventually,
    hang,
    make_model,
    make_table,
    replicas,
    request_bytes,
    scenario,
    whole,
)
from plinth.tests.gateway.wire.rig import bearer, make_access, make_key, make_policy, model_at, serving, told

pytestmark = pytest.mark.process

BANDS: tuple[Band, ...] = get_args(Band)
ACCESS = make_access(
    *(make_policy(name=f"team/{band}", priority=band) for band in BANDS),
    make_policy(name="team/patient", queue_seconds=0.3),
    keys=(
        *(make_key(f"sk-{band}", f"team/{band}") for band in BANDS),
        make_key("sk-patient", "team/patient"),
        make_key("sk-many"),
        make_key("sk-few"),
    ),
)


@dataclass
class Gate:
    """A replica that answers one request after the other once it is opened, and remembers their order."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)
    order: list[str] = field(default_factory=list)

    async def __call__(self, upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
        self.order.append(json.loads(seen.body)["user"])
        await self.opened.wait()
        writer.write(whole(b'{"usage": {"prompt_tokens": 10, "completion_tokens": 10}}'))


async def ask(rig: Rig, key: str, **fields: Any) -> Answer:
    return await rig.ask(headers=bearer(key), body={"model": "tiny", "user": key, "messages": []} | fields)


@asynccontextmanager
async def one_at_a_time(folder: Path, **settings: Any) -> AsyncIterator[tuple[Rig, Gate, Any]]:
    """A gateway whose only place at a replica is taken until the gate opens; a way to ask and wait in its queue."""
    gate = Gate()
    async with (
        replicas(gate) as (upstream,),
        serving(folder, model_at(upstream.port, concurrency=1), access=ACCESS, **settings) as rig,
    ):
        model = rig.gateway.core.fleet.models[MODEL]
        asked = [asyncio.ensure_future(ask(rig, "sk-system"))]
        await eventually(lambda: gate.order)

        async def wait(key: str) -> asyncio.Future[Answer]:
            before = len(model.queue)
            asked.append(asyncio.ensure_future(ask(rig, key)))
            await eventually(lambda: len(model.queue) == before + 1)
            return asked[-1]

        try:
            yield rig, gate, wait
        finally:
            gate.opened.set()
            await asyncio.gather(*asked)


@scenario
async def test_the_most_urgent_band_is_served_first(tmp_path: Path) -> None:
    async with one_at_a_time(tmp_path) as (_, gate, wait):
        waiting = [await wait(f"sk-{band}") for band in reversed(BANDS) for _ in range(2)]
        gate.opened.set()
        assert {got.status for got in await asyncio.gather(*waiting)} == {200}
        assert gate.order[1:] == [f"sk-{band}" for band in BANDS for _ in range(2)]


@scenario
async def test_a_key_that_asks_much_makes_none_wait_that_asks_little(tmp_path: Path) -> None:
    async with one_at_a_time(tmp_path) as (_, gate, wait):
        waiting = [await wait("sk-many") for _ in range(12)] + [await wait("sk-few") for _ in range(3)]
        gate.opened.set()
        await asyncio.gather(*waiting)
        assert gate.order[1:7].count("sk-few") == 3
        assert gate.order[7:] == ["sk-many"] * 9


@scenario
async def test_a_policy_says_how_long_its_requests_wait(tmp_path: Path) -> None:
    async with one_at_a_time(tmp_path) as (_, _, wait):
        began = time.monotonic()
        got = await (await wait("sk-patient"))
        assert 0.3 <= time.monotonic() - began < 1.2
        assert told(got) == (503, "no_replica_ready", "overloaded_error")
        assert "within 0.3 s" in got.json()["error"]["message"]
        assert (int(got.headers["retry-after"]) >= 1, got.headers["x-should-retry"]) == (True, "true")


@scenario
async def test_beyond_the_bound_a_request_is_refused_unless_its_key_has_fewer_waiting(tmp_path: Path) -> None:
    async with one_at_a_time(tmp_path, queue_requests=3) as (rig, gate, wait):
        many = [await wait("sk-many") for _ in range(3)]
        got = await ask(rig, "sk-many")
        assert told(got) == (429, "queue_full", "overloaded_error")
        assert int(got.headers["retry-after"]) >= 1
        few = asyncio.ensure_future(ask(rig, "sk-few"))
        assert told(await many[-1])[1] == "queue_full", "the last of the longest line gives way"
        gate.opened.set()
        assert (await few).status == 200


@scenario
async def test_a_request_that_cannot_be_served_in_time_is_refused_at_once_with_the_time_that_it_needs(
    tmp_path: Path,
) -> None:
    async def slowly(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        await answer()(upstream, seen, writer)

    async with (
        replicas(slowly) as (upstream,),
        serving(tmp_path, model_at(upstream.port, concurrency=1), access=ACCESS) as rig,
    ):
        for _ in range(9):
            assert (await ask(rig, "sk-interactive")).status == 200
        waiting = [asyncio.ensure_future(ask(rig, "sk-interactive")) for _ in range(25)]
        await eventually(lambda: len(rig.gateway.core.fleet.models[MODEL].queue) == 24)
        began = time.monotonic()
        got = [await ask(rig, "sk-patient") for _ in range(3)]
        assert time.monotonic() - began < 0.5
        assert told(got[0]) == (429, "queue_too_long", "overloaded_error")
        assert 1 <= int(got[0].headers["retry-after"]) <= 6, "what it takes, not what answers might have been"
        await asyncio.gather(*waiting)


@scenario
async def test_who_hangs_up_while_waiting_is_forgotten_and_the_others_go_on(tmp_path: Path) -> None:
    async with one_at_a_time(tmp_path) as (rig, gate, wait):
        client = await rig.connect()
        client.send(request_bytes(headers=bearer("sk-few"), body={"model": "tiny", "user": "gone"}))
        await eventually(lambda: len(rig.gateway.core.fleet.models[MODEL].queue) == 1)
        client.close()
        await eventually(lambda: not rig.gateway.core.fleet.models[MODEL].queue)
        other = await wait("sk-many")
        gate.opened.set()
        assert (await other).status == 200
        assert gate.order == ["sk-system", "sk-many"]


@pytest.mark.alone
@scenario
async def test_a_thousand_requests_for_a_model_at_zero_wake_the_controller_once(tmp_path: Path) -> None:
    async with (
        replicas(None) as (upstream,),
        serving(tmp_path, make_model(), access=ACCESS) as rig,
    ):
        controller = rig.controller
        await asyncio.sleep(0.05)
        before = len(controller.reports)
        asked = [asyncio.ensure_future(ask(rig, "sk-many")) for _ in range(200)]
        took = await eventually(lambda: controller.last.models[MODEL].queued > 0)
        await eventually(lambda: len(rig.gateway.core.fleet.models[MODEL].queue) == 200)
        woken = len(controller.reports) - before
        assert took < 0.2
        assert woken == 1
        await controller.apply(make_table(model_at(upstream.port), version=2))
        assert {got.status for got in await asyncio.gather(*asked)} == {200}


@scenario
async def test_requests_that_wait_are_refused_when_their_model_refuses_or_leaves(tmp_path: Path) -> None:
    async with (
        replicas(hang) as (upstream,),
        serving(tmp_path, model_at(upstream.port, concurrency=1), access=ACCESS) as rig,
    ):
        at_replica, held = [asyncio.ensure_future(ask(rig, "sk-many")) for _ in range(2)]
        await eventually(lambda: len(rig.gateway.core.fleet.models[MODEL].queue) == 1)
        await rig.controller.apply(make_table(version=2))
        assert told(await held)[:2] == (404, "model_not_found")
        await upstream.stop()
        assert told(await at_replica)[:2] == (404, "model_not_found"), "it comes back to a model that is gone"
