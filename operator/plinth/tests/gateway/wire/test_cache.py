"""Answers that are repeated or shared, as clients and replicas see it."""

# ruff: noqa: ARG001 - behaviours take what they need not
from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from plinth.domain.access import HOUR, AccessTable
from plinth.domain.traffic import Availability
from plinth.gateway.shared_options import Shared
from plinth.tests.gateway.harness import (
    MODEL,
    Behaviour,
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
from plinth.tests.gateway.limits.builders import make_limit
from plinth.tests.gateway.limits.real_redis import running_redis
from plinth.tests.gateway.test_resume_on_the_wire import CHAT
from plinth.tests.gateway.test_resume_on_the_wire import serving as engine_serving
from plinth.tests.gateway.token_engine import Engine, read_stream
from plinth.tests.gateway.wire.rig import (
    OTHER_KEY,
    TEAM_KEY,
    bearer,
    make_access,
    make_key,
    make_policy,
    model_at,
    serving,
    used,
)

pytestmark = pytest.mark.process

DOCUMENT = {
    "choices": [{"message": {"content": "ü"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 5},
}
BODY = {"model": "tiny", "temperature": 0, "messages": [{"role": "user", "content": "Tell"}]}
STREAM = BODY | {"stream": True, "max_tokens": 20}
CACHING = make_access(make_policy(cache="Deterministic", cache_seconds=60))


@asynccontextmanager
async def caching(
    folder: Path, *behaviours: Behaviour | None, access: AccessTable = CACHING, **settings: Any
) -> AsyncIterator[tuple[Rig, Upstream]]:
    async with (
        replicas(*(behaviours or (answer(DOCUMENT),))) as upstreams,
        serving(folder, model_at(*(each.port for each in upstreams)), access=access, **settings) as rig,
    ):
        yield rig, upstreams[0]


async def outcomes(rig: Rig, *bodies: dict[str, Any], key: str = TEAM_KEY, **headers: str) -> list[str]:
    found = []
    for body in bodies:
        got = await rig.ask(body=body, headers=bearer(key) | headers)
        assert got.status == 200
        found.append(got.headers.get("cache-status", "").removeprefix("plinth; ").partition("; ttl")[0])
    return found


@scenario
async def test_nothing_is_kept_unless_a_policy_says_so(tmp_path: Path) -> None:
    async with caching(tmp_path, access=make_access(make_policy())) as (rig, upstream):
        assert await outcomes(rig, BODY, BODY) == ["", ""]
        assert len(upstream.seen) == 2


@scenario
async def test_an_answer_is_repeated_byte_for_byte_and_says_so(tmp_path: Path) -> None:
    async with caching(tmp_path) as (rig, upstream):
        first, second = [await rig.ask(body=BODY, headers=bearer()) for _ in range(2)]
        assert (first.body, first.headers["cache-status"]) == (second.body, "plinth; fwd=miss")
        assert second.headers["cache-status"] == "plinth; hit; ttl=60"
        assert first.headers["content-type"] == second.headers["content-type"]
        assert first.headers["x-request-id"] != second.headers["x-request-id"]
        assert len(upstream.seen) == 1
        warm = BODY | {"temperature": 0.5}
        assert await outcomes(rig, warm, warm, BODY | {"user": "another"}) == ["", "", "hit"]
        assert await rig.metric("plinth_gateway_cache_answers_total", bearer()) == 3
        assert await rig.metric("plinth_gateway_cache_saved_tokens_total", bearer()) == 2 * 12


@scenario
async def test_a_stream_is_repeated_whole(tmp_path: Path) -> None:
    async with caching(tmp_path, engine_serving(Engine())) as (rig, upstream):
        first, second = [await rig.ask(body=STREAM, headers=bearer()) for _ in range(2)]
        assert first.body == second.body
        assert read_stream(second.body).done
        assert second.headers["content-type"] == "text/event-stream"
        assert second.headers["cache-status"].startswith("plinth; hit")
        assert len(upstream.seen) == 1


@scenario
async def test_keys_of_one_tenant_share_and_tenants_never_do(tmp_path: Path) -> None:
    policies = [
        make_policy(name=f"{tenant}/some", cache="All", cache_seconds=60) for tenant in ("team", "other")
    ]
    access = make_access(
        *policies,
        keys=(
            make_key(TEAM_KEY, "team/some"),
            make_key("sk-colleague", "team/some"),
            make_key(OTHER_KEY, "other/some", tenant="other"),
        ),
    )
    async with replicas(answer(DOCUMENT)) as (upstream,):
        models = (
            model_at(upstream.port),
            make_model(*model_at(upstream.port).replicas, model="other/tiny", names=("tiny",)),
        )
        async with serving(tmp_path, *models, access=access) as rig:
            assert await outcomes(rig, BODY) == ["fwd=miss"]
            assert await outcomes(rig, BODY, key="sk-colleague") == ["hit"]
            assert await outcomes(rig, BODY, BODY, key=OTHER_KEY) == ["fwd=miss", "hit"]


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        ("no-cache", ["fwd=bypass", "hit"]),
        ("no-store", ["fwd=bypass", "fwd=miss"]),
        ("max-age=60", ["fwd=miss", "hit"]),
    ],
)
def test_a_client_may_ask_for_a_fresh_answer_or_for_one_that_is_not_kept(
    tmp_path: Path, control: str, expected: list[str]
) -> None:
    @scenario
    async def run() -> None:
        async with caching(tmp_path) as (rig, _):
            found = await outcomes(rig, BODY, **{"Cache-Control": control}) + await outcomes(rig, BODY)
            assert found == expected

    run()


@scenario
async def test_an_answer_is_kept_as_long_as_the_policy_says(tmp_path: Path) -> None:
    access = make_access(make_policy(cache="All", cache_seconds=1))
    async with caching(tmp_path, access=access) as (rig, _):
        assert await outcomes(rig, BODY, BODY) == ["fwd=miss", "hit"]
        await asyncio.sleep(1.1)
        assert await outcomes(rig, BODY) == ["fwd=miss"]


@scenario
async def test_another_revision_of_the_model_answers_anew(tmp_path: Path) -> None:
    async with caching(tmp_path) as (rig, upstream):
        assert await outcomes(rig, BODY) == ["fwd=miss"]
        await rig.controller.apply(make_table(model_at(upstream.port, revision="2"), version=2))
        assert await outcomes(rig, BODY, BODY) == ["fwd=miss", "hit"]


@scenario
async def test_a_hit_counts_as_a_request_and_costs_no_tokens(tmp_path: Path) -> None:
    limits = (
        make_limit("requests", 100, HOUR),
        make_limit("totalTokens", 10_000, HOUR),
        make_limit("concurrency", 5),
    )
    access = make_access(make_policy(*limits, cache="All", cache_seconds=60))
    async with caching(tmp_path, access=access) as (rig, _):
        await outcomes(rig, *[BODY] * 4)
        assert [used(rig, limit) for limit in limits] == [4, 12, 0]


# --- one for many ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [None, 9])
def test_equal_requests_at_once_are_one_at_the_replica_and_all_get_it_live(
    tmp_path: Path, cut: int | None
) -> None:
    @scenario
    async def run() -> None:
        engines = (
            engine_serving(Engine(), every=0.02, ends_after=cut, how="cut" if cut else ""),
            engine_serving(Engine(), every=0.02),
        )
        async with caching(tmp_path, *engines) as (rig, upstream):
            answers = await asyncio.gather(*[rig.ask(body=STREAM, headers=bearer()) for _ in range(20)])
            assert len([seen for seen in upstream.seen if CHAT in seen.line]) == 1
            assert {got.headers["cache-status"] for got in answers} == {
                "plinth; fwd=miss",
                "plinth; fwd=miss; collapsed",
            }
            assert len({got.body for got in answers}) == 1
            assert read_stream(answers[0].body).done
            for got in answers:
                assert got.pieces[-1][0] - got.pieces[0][0] > 0.2, "as it comes, not at the end"

    run()


@pytest.mark.parametrize("begun", [False, True])
def test_an_answer_goes_on_for_those_who_listen_when_its_first_client_leaves(
    tmp_path: Path, *, begun: bool
) -> None:
    @scenario
    async def run() -> None:
        async with caching(tmp_path, engine_serving(Engine(), every=0.02)) as (rig, upstream):
            leader = await rig.connect()
            leader.send(request_bytes(body=STREAM, headers=bearer()))
            await eventually(lambda: upstream.seen)
            followers = [asyncio.ensure_future(rig.ask(body=STREAM, headers=bearer())) for _ in range(3)]
            if begun:
                await leader.head()
            await asyncio.sleep(0.02)
            leader.close()
            for got in await asyncio.gather(*followers):
                assert read_stream(got.body).done
            assert len(upstream.seen) == 1

    run()


@scenario
async def test_the_engines_work_ends_when_the_last_of_all_clients_has_gone(tmp_path: Path) -> None:
    async with caching(tmp_path, engine_serving(Engine(), every=0.5)) as (rig, upstream):
        clients = [await rig.connect() for _ in range(3)]
        for client in clients:
            client.send(request_bytes(body=STREAM, headers=bearer()))
            await asyncio.sleep(0.02)
        for client in clients:
            assert not upstream.seen[0].hung_up
            client.close()
        await eventually(lambda: upstream.seen[0].hung_up)


@scenario
async def test_a_hung_replica_is_left_for_those_who_listen_though_the_first_client_has_gone(
    tmp_path: Path,
) -> None:
    engines = engine_serving(Engine(), ends_after=9, how="hang"), engine_serving(Engine())
    async with caching(tmp_path, *engines, stuck_seconds=1.0) as (rig, upstream):
        for _ in range(3000):  # streams of this replica are quick
            rig.gateway.core.fleet.replicas()[0].pace.saw(0.0, 0.005)
        leader = await rig.connect()
        leader.send(request_bytes(body=STREAM, headers=bearer()))
        await eventually(lambda: upstream.seen)
        follower = asyncio.ensure_future(rig.ask(body=STREAM, headers=bearer()))
        await asyncio.sleep(0.02)
        leader.close()
        assert read_stream((await follower).body).done
        assert await rig.metric("plinth_gateway_resumed_streams_total", bearer()) == 1


@scenario
async def test_what_only_one_of_them_is_refused_for_stops_none_of_the_others(tmp_path: Path) -> None:
    count = 0

    async def failing_once(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        await asyncio.sleep(0.1)
        if count == 1:
            writer.write(whole(b'{"error": {"message": "no"}}', "500 Internal Server Error"))
        else:
            writer.write(whole(json.dumps(DOCUMENT).encode()))

    async with caching(tmp_path, failing_once) as (rig, _):
        answers = await asyncio.gather(*[rig.ask(body=BODY, headers=bearer()) for _ in range(5)])
        assert sorted(got.status for got in answers) == [200, 200, 200, 200, 500]
        assert count == 2


@scenario
async def test_hundreds_who_wait_for_one_answer_are_all_refused_when_their_model_is(tmp_path: Path) -> None:
    async with caching(tmp_path, hang) as (rig, upstream):
        asked = [asyncio.ensure_future(rig.ask(body=BODY, headers=bearer())) for _ in range(400)]
        await eventually(lambda: upstream.seen)
        await eventually(lambda: len(rig.gateway.core.connections) == 400)
        await asyncio.sleep(0.2)
        refused = make_model(availability=Availability.REFUSED, message="no room")
        await rig.controller.apply(make_table(refused, version=2))
        await upstream.stop()
        answers = await asyncio.gather(*asked)
        assert {(got.status, got.code) for got in answers} == {(503, "model_unavailable")}


@scenario
async def test_who_follows_waits_no_longer_than_its_policy_says(tmp_path: Path) -> None:
    access = make_access(make_policy(cache="All", cache_seconds=60, queue_seconds=0.3))
    async with caching(tmp_path, hang, access=access) as (rig, upstream):
        leader = await rig.connect()
        leader.send(request_bytes(body=BODY, headers=bearer()))
        await eventually(lambda: upstream.seen)
        began = time.monotonic()
        got = await rig.ask(body=BODY, headers=bearer())
        assert (got.status, got.code) == (503, "no_replica_ready")
        assert 0.2 < time.monotonic() - began < 1.2
        leader.close()


@pytest.mark.parametrize("how", ["up", "slow", "killed"])
def test_gateways_share_answers_through_redis_and_need_it_for_nothing(tmp_path: Path, how: str) -> None:
    @scenario
    async def run() -> None:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
        async with running_redis(tmp_path) as redis, replicas(engine_serving(Engine())) as (upstream,):
            shared: Any = {"shared": Shared(redis=redis.address, cache_place="redis"), "access": CACHING}
            model = model_at(upstream.port)
            async with (
                serving(tmp_path / "one", model, **shared) as one,
                serving(tmp_path / "two", model, **shared) as two,
            ):
                for rig in (one, two):  # the first request makes the connection
                    await outcomes(rig, BODY | {"stream": True, "seed": id(rig)})
                    await eventually(lambda rig=rig: rig.gateway.core.cache.redis._connection is not None)  # type: ignore[misc]
                first = await one.ask(body=STREAM, headers=bearer())
                await asyncio.sleep(0.05)
                if how == "slow":
                    redis.freeze()
                elif how == "killed":
                    await redis.kill()
                began = time.monotonic()
                second = await two.ask(body=STREAM, headers=bearer())
                assert time.monotonic() - began < 0.6
                expected = "plinth; hit" if how == "up" else "plinth; fwd=miss"
                assert second.headers["cache-status"].startswith(expected)
                assert read_stream(second.body).texts == read_stream(first.body).texts
                if how == "slow":
                    redis.thaw()

    run()


@scenario
async def test_an_answer_that_is_cached_may_come_from_a_fallback(tmp_path: Path) -> None:
    async with replicas(None, answer(DOCUMENT)) as (one, two):
        models = (
            model_at(one.port, fallbacks=("other",)),
            make_model(*model_at(two.port).replicas, model="team/other", names=("other",)),
        )
        await one.stop()
        async with serving(tmp_path, *models, access=CACHING, queue_seconds=0.3) as rig:
            assert MODEL in rig.gateway.core.fleet.models
            assert await outcomes(rig, BODY) == ["fwd=miss"]
