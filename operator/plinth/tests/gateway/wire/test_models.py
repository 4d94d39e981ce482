"""Requests that another model answers than the one asked for: fallbacks, canaries, mirrors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from plinth.domain.access import HOUR, AccessTable
from plinth.domain.traffic import Availability, ModelRoute, ReplicaState, TrafficShare
from plinth.tests.gateway.harness import (
    EVERYBODY,
    STREAMING,
    Behaviour,
    Rig,
    Upstream,
    answer,
    close,
    eventually,
    hang,
    make_model,
    make_replica,
    make_table,
    replicas,
    request_bytes,
    scenario,
    stream,
)
from plinth.tests.gateway.limits.builders import make_limit
from plinth.tests.gateway.wire.rig import bearer, make_access, make_key, make_policy, serving, used

pytestmark = pytest.mark.process

OTHER = "team/other"
NAMED = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}, "by": "other"}


def first(upstream: Upstream, **fields: Any) -> ModelRoute:
    return make_model(make_replica(upstream.port, slot="a.0", concurrency=2), **fields)


def other(upstream: Upstream, **fields: Any) -> ModelRoute:
    values: dict[str, Any] = {"model": OTHER, "names": ("other", OTHER)}
    return make_model(make_replica(upstream.port, slot="b.0", concurrency=2), **(values | fields))


@asynccontextmanager
async def two_models(
    folder: Path,
    *behaviours: Behaviour | None,
    access: AccessTable = EVERYBODY,
    of_other: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    **fields: Any,
) -> AsyncIterator[tuple[Rig, Upstream, Upstream]]:
    """`fields` are the first model's route's."""
    async with (
        replicas(*behaviours) as (one, two),
        serving(
            folder, first(one, **fields), other(two, **of_other or {}), access=access, **settings or {}
        ) as rig,
    ):
        yield rig, one, two


# --- fallbacks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("why", ["it refuses", "its replicas fail", "its queue is too long"])
def test_a_fallback_answers_where_the_model_cannot(tmp_path: Path, why: str, *, streams: bool) -> None:
    @scenario
    async def run() -> None:
        behaviour = close if why == "its replicas fail" else hang
        fields: dict[str, Any] = {"fallbacks": ("other",)}
        if why == "it refuses":
            fields |= {"availability": Availability.REFUSED, "message": "no room", "replicas": ()}
        async with two_models(
            tmp_path,
            behaviour,
            stream(3) if streams else answer(NAMED),
            settings={"queue_seconds": 0.3},
            **fields,
        ) as (rig, one, two):
            clients = []
            if why == "its queue is too long":
                clients = [await rig.connect() for _ in range(2)]
                for client in clients:
                    client.send(request_bytes())
                await eventually(lambda: len(one.seen) == 2)
            body = {"model": "tiny", "messages": [], "stream": streams}
            got = await rig.ask(body=body)
            assert got.status == 200
            if streams:
                assert got.body.endswith(b"data: [DONE]\n\n")
            else:
                assert got.json() == NAMED
            assert json.loads(two.seen[0].body)["model"] == "other"

    run()


@scenario
async def test_the_limits_of_the_fallback_hold_and_those_of_the_model_are_given_back(tmp_path: Path) -> None:
    here, there = make_limit("requests", 5, HOUR), make_limit("outputTokens", 400, HOUR)
    access = make_access(
        make_policy(here, name="team/here", models=("team/tiny",)),
        make_policy(there, name="team/there", models=(OTHER,)),
    )
    async with two_models(tmp_path, close, answer(NAMED), access=access, fallbacks=("other",)) as (
        rig,
        _,
        two,
    ):
        body = {"model": "tiny", "messages": [], "max_tokens": 300}
        assert (await rig.ask(headers=bearer(), body=body)).status == 200
        assert (used(rig, here), used(rig, there)) == (0, 5)
        two.behave = hang
        client = await rig.connect()
        client.send(request_bytes(headers=bearer(), body=body))
        await eventually(lambda: len(two.seen) == 2)
        refused = await rig.ask(headers=bearer(), body=body)
        assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
        assert "team/there" in refused.json()["error"]["message"]


@scenario
async def test_a_fallback_that_the_key_does_not_open_is_passed_over(tmp_path: Path) -> None:
    access = make_access(keys=(make_key(models=("team/tiny",)),))
    async with two_models(tmp_path, close, answer(NAMED), access=access, fallbacks=("other",)) as (
        rig,
        _,
        two,
    ):
        got = await rig.ask(headers=bearer())
        assert (got.status, got.code) == (503, "replica_failed")
        assert not two.seen


@scenario
async def test_an_answer_that_has_begun_never_goes_on_at_a_fallback(tmp_path: Path) -> None:
    async with two_models(
        tmp_path,
        stream(5, every=0.01, die_after=2),
        answer(NAMED),
        fallbacks=("other",),
        settings={"resume_seconds": 0.3},
    ) as (rig, one, two):
        asked = asyncio.ensure_future(rig.ask(body=STREAMING))
        await eventually(lambda: one.seen)
        await one.stop()
        assert b"stream_broken" in (await asked).body
        assert not two.seen


@pytest.mark.parametrize("how", ["it refuses from now on", "it leaves the table"])
def test_those_who_wait_go_to_the_fallback_when_their_model_serves_no_more(tmp_path: Path, how: str) -> None:
    @scenario
    async def run() -> None:
        async with two_models(tmp_path, hang, answer(NAMED), fallbacks=("other",)) as (rig, one, two):
            asked = [asyncio.ensure_future(rig.ask()) for _ in range(5)]
            await eventually(lambda: len(one.seen) == 2)
            await eventually(lambda: len(rig.gateway.core.fleet.models["team/tiny"].queue) == 3)
            refusing = make_model(availability=Availability.REFUSED, message="no room", fallbacks=("other",))
            left = (other(two),) if how == "it leaves the table" else (refusing, other(two))
            await rig.controller.apply(make_table(*left, version=2))
            await eventually(lambda: len(two.seen) == 3)
            await one.stop()
            assert [got.json() for got in await asyncio.gather(*asked)] == [NAMED] * 5

    run()


# --- canaries ----------------------------------------------------------------------------------------------------


def canary(percent: int = 0, mirror_percent: int = 0) -> tuple[TrafficShare, ...]:
    return (TrafficShare(model=OTHER, percent=percent, mirror_percent=mirror_percent),)


@scenario
async def test_a_canary_takes_its_part_of_the_requests_under_its_own_name(tmp_path: Path) -> None:
    async with two_models(tmp_path, None, None, shares=canary(30)) as (rig, one, two):
        connection = await rig.connect()
        for _ in range(100):
            assert (await connection.ask()).status == 200
        assert abs(len(two.seen) - 30) <= 2
        assert len(one.seen) + len(two.seen) == 100
        assert {json.loads(seen.body)["model"] for seen in two.seen} == {"other"}


@scenario
async def test_a_session_meets_one_model_and_a_canary_without_life_gets_nothing(tmp_path: Path) -> None:
    async with two_models(tmp_path, None, None, shares=canary(50), session_header="x-session") as (
        rig,
        one,
        two,
    ):
        for number in range(12):
            before = len(one.seen), len(two.seen)
            for _ in range(3):
                assert (await rig.ask(headers={"x-session": f"s{number}"})).status == 200
            assert sorted((len(one.seen) - before[0], len(two.seen) - before[1])) == [0, 3]
        assert one.seen
        assert two.seen
        seen = len(two.seen)
        gone = make_model(
            make_replica(two.port, slot="b.0", state=ReplicaState.DRAINING), model=OTHER, names=("other",)
        )
        await rig.controller.apply(make_table(first(one, shares=canary(50)), gone, version=2))
        for _ in range(6):
            assert (await rig.ask()).status == 200
        assert len(two.seen) == seen


# --- mirrors -----------------------------------------------------------------------------------------------------


@scenario
async def test_a_mirror_gets_copies_and_nobody_gets_its_answers_nor_pays_for_them(tmp_path: Path) -> None:
    limits = make_limit("requests", 100, HOUR), make_limit("outputTokens", 10_000, HOUR)
    access = make_access(make_policy(*limits, models=("team/tiny",)))
    async with two_models(tmp_path, None, answer(NAMED), access=access, shares=canary(0, 100)) as (
        rig,
        one,
        two,
    ):
        for count in range(1, 6):
            got = await rig.ask(headers=bearer())
            assert "by" not in got.json()
            await eventually(lambda count=count: len(two.seen) == count)  # type: ignore[misc]
        copied, sent = json.loads(two.seen[0].body), json.loads(one.seen[0].body)
        assert copied == sent | {"model": "other"}
        assert (used(rig, limits[0]), used(rig, limits[1])) == (5, 25)


@scenario
async def test_what_a_canary_takes_is_mirrored_too(tmp_path: Path) -> None:
    shares = (*canary(100), TrafficShare(model="team/tiny", percent=0, mirror_percent=100))
    async with two_models(tmp_path, None, None, shares=shares) as (rig, one, two):
        assert (await rig.ask()).status == 200
        assert len(two.seen) == 1
        await eventually(lambda: len(one.seen) == 1)


@pytest.mark.parametrize("behaviour", [hang, close, stream(500, every=0.01), answer({}, "500 No")])
def test_whatever_a_mirror_does_its_copies_disturb_nobody_and_are_dropped_while_it_is_busy(
    tmp_path: Path, behaviour: Behaviour
) -> None:
    @scenario
    async def run() -> None:
        settings = {"first_byte_seconds": 0.6, "stream_idle_seconds": 0.6, "drain_seconds": 1.0}
        async with two_models(tmp_path, stream(3), behaviour, shares=canary(0, 100), settings=settings) as (
            rig,
            _,
            two,
        ):
            connection = await rig.connect()
            for _ in range(8):
                got = await connection.ask(body=STREAMING)
                assert got.body.endswith(b"[DONE]\n\n")
            await asyncio.sleep(0.05)
            if behaviour is hang:
                assert len(two.seen) == 2, "as many as it has places"
                await eventually(lambda: not rig.gateway.core.fleet.models[OTHER].calls)
            two.behave = stream(0)
            await two.stop()

    run()


@scenario
async def test_what_is_refused_is_not_mirrored(tmp_path: Path) -> None:
    access = make_access(make_policy(make_limit("requests", 1, HOUR)))
    async with two_models(tmp_path, None, None, access=access, shares=canary(0, 100)) as (rig, _, two):
        assert [(await rig.ask(headers=bearer())).status for _ in range(3)] == [200, 429, 429]
        await asyncio.sleep(0.1)
        assert len(two.seen) == 1
