"""Which replica and which model a request goes to, seen by the replicas themselves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plinth.domain.traffic import Strategy
from plinth.tests.gateway.harness import (
    MODEL,
    Rig,
    Upstream,
    answer,
    eventually,
    hang,
    make_table,
    replicas,
    request_bytes,
    scenario,
    stream,
)
from plinth.tests.gateway.wire.rig import TEAM_KEY, make_access, make_policy, model_at, serving

pytestmark = pytest.mark.process


def prompt(word: str, **fields: Any) -> dict[str, Any]:
    """Some twenty blocks that are like those of no other word."""
    return {"model": "tiny", "messages": [{"role": "user", "content": f"{word} " * 5000}]} | fields


async def where(upstreams: list[Upstream], rig: Rig, body: dict[str, Any], **headers: str) -> int:
    """The number of the replica that gets the request."""
    before = [len(upstream.seen) for upstream in upstreams]
    assert (await rig.ask(body=body, headers=headers)).status == 200
    (found,) = [at for at, upstream in enumerate(upstreams) if len(upstream.seen) > before[at]]
    return found


@asynccontextmanager
async def busy(rig: Rig, upstream: Upstream) -> AsyncIterator[None]:
    """One request is at the first replica, which equal ones would all go to."""
    behave, upstream.behave = upstream.behave, hang
    count = len(upstream.seen)
    client = await rig.connect()
    client.send(request_bytes())
    await eventually(lambda: len(upstream.seen) == count + 1)
    upstream.behave = behave
    yield
    client.close()
    await eventually(lambda: not rig.gateway.core.fleet.models[MODEL].calls)


@asynccontextmanager
async def three(folder: Path, **fields: Any) -> AsyncIterator[tuple[Rig, list[Upstream]]]:
    async with (
        replicas(None, None, None) as upstreams,
        serving(folder, model_at(*(each.port for each in upstreams), **fields)) as rig,
    ):
        yield rig, upstreams


@scenario
async def test_a_prompt_comes_back_to_the_replica_that_has_read_its_beginning(tmp_path: Path) -> None:
    async with three(tmp_path) as (rig, upstreams):
        async with busy(rig, upstreams[0]):
            assert await where(upstreams, rig, prompt("sea")) == 1
        assert await where(upstreams, rig, prompt("land")) == 0
        for _ in range(3):
            longer = prompt("sea")
            longer["messages"].append({"role": "user", "content": "and then?"})
            assert await where(upstreams, rig, longer) == 1
            assert await where(upstreams, rig, prompt("land")) == 0


@scenario
async def test_a_session_stays_at_its_replica(tmp_path: Path) -> None:
    async with three(tmp_path, session_header="x-session") as (rig, upstreams):
        async with busy(rig, upstreams[0]):
            assert await where(upstreams, rig, {"model": "tiny"}, **{"X-Session": "one"}) == 1
        for _ in range(3):
            assert await where(upstreams, rig, {"model": "tiny"}, **{"X-Session": "one"}) == 1
            assert await where(upstreams, rig, {"model": "tiny"}, **{"X-Session": "two"}) == 0


@pytest.mark.parametrize("strategy", Strategy)
def test_every_strategy_can_be_chosen_and_uses_all_replicas(tmp_path: Path, strategy: Strategy) -> None:
    @scenario
    async def run() -> None:
        async with three(tmp_path, strategy=strategy) as (rig, upstreams):
            alone = [await where(upstreams, rig, prompt(f"{number}")) for number in range(12)]
            # Without load only a hash of the prompt tells replicas apart that have read nothing of it.
            assert (len(set(alone)) > 1) == (strategy is Strategy.PREFIX_HASH)
            again = [await where(upstreams, rig, prompt(f"{number}")) for number in range(12)]
            assert again == alone
            for upstream in upstreams:
                upstream.seen.clear()
                upstream.behave = stream(5, every=0.02)
            body = {"model": "tiny", "stream": True}
            await asyncio.gather(*[rig.ask(body=body) for _ in range(12)])
            assert [len(upstream.seen) for upstream in upstreams] == [4, 4, 4]

    run()


@pytest.mark.parametrize(("band", "expected"), [("interactive", 1), ("bulk", 0)])
def test_where_the_fastest_come_first_bulk_leaves_them_to_the_others(
    tmp_path: Path, band: Any, expected: int
) -> None:
    @scenario
    async def run() -> None:
        access = make_access(make_policy(priority=band))
        async with three(tmp_path, strategy=Strategy.FASTEST_FIRST) as (rig, upstreams):
            await rig.admit_by(access)
            rig.gateway.core.fleet.models[MODEL].standings[1].pace.rate *= 4
            assert await where(upstreams, rig, prompt("sea"), **{"x-api-key": TEAM_KEY}) == expected

    run()


@pytest.mark.parametrize(
    "ill", [answer({}, "500 Internal Server Error"), stream(4, every=0.15)], ids=["failing", "slow"]
)
def test_a_replica_that_is_out_of_line_gets_no_requests_for_a_while(tmp_path: Path, ill: Any) -> None:
    @scenario
    async def run() -> None:
        async with three(tmp_path) as (rig, upstreams):
            upstreams[0].behave = ill
            for upstream in upstreams[1:]:
                upstream.behave = stream(4, every=0.01)
            body = {"model": "tiny", "stream": True}
            for _ in range(3):
                await asyncio.gather(*[rig.ask(body=body) for _ in range(48)])
            client = await rig.connect()  # somebody is there: the review goes on
            await eventually(lambda: rig.gateway.core.fleet.models[MODEL].standings[0].ejected)
            assert {await where(upstreams, rig, body) for _ in range(5)} <= {1, 2}
            client.close()
            assert await rig.metric("plinth_gateway_replica_ejections_total") == 1

    run()


@scenario
async def test_a_replica_whose_accelerator_fails_gets_no_requests_while_others_serve(tmp_path: Path) -> None:
    async with three(tmp_path) as (rig, upstreams):
        route = model_at(*(each.port for each in upstreams))
        ill = replace(route.replicas[0], fault="GPU-333 has failing memory")
        await rig.controller.apply(make_table(replace(route, replicas=(ill, *route.replicas[1:])), version=2))
        standing = rig.gateway.core.fleet.models[MODEL].standings[0]
        client = await rig.connect()  # somebody is there: the review goes on
        await eventually(lambda: standing.ejected)
        assert {await where(upstreams, rig, {"model": "tiny"}) for _ in range(5)} <= {1, 2}
        client.close()


# --- what the engine is asked ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("tiny", "tiny"),
        (MODEL, MODEL),
        ("fast", "tiny"),
        ("tiny@awq", "tiny"),
        ("tiny:law", "tiny:law"),
    ],
)
def test_an_engine_hears_the_name_that_it_answers_to(tmp_path: Path, asked: str, told: str) -> None:
    @scenario
    async def run() -> None:
        names: dict[str, Any] = {"aliases": ("fast", "tiny@awq"), "adapters": ("tiny:law",)}
        async with three(tmp_path, **names) as (rig, upstreams):
            body = {"model": asked, "messages": [{"role": "user", "content": "ü"}], "max_tokens": 3}
            await where(upstreams, rig, body)
            assert json.loads(upstreams[0].seen[0].body) == body | {"model": told}

    run()


@scenario
async def test_an_adapter_prefers_the_replica_that_has_it_loaded(tmp_path: Path) -> None:
    async with three(tmp_path, adapters=("tiny:law",)) as (rig, upstreams):
        async with busy(rig, upstreams[0]):
            assert await where(upstreams, rig, {"model": "tiny:law"}) == 1
        assert await where(upstreams, rig, {"model": "tiny:law"}) == 1
        assert await where(upstreams, rig, {"model": "tiny"}) == 0
