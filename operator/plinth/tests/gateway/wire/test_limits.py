"""What limits do to requests: refusals as clients read them, and what of a request counts when it is over."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from plinth.domain.access import DAY, HOUR, Limit
from plinth.gateway.shared_options import Shared
from plinth.tests.gateway.harness import (
    STREAM_HEAD,
    STREAMING,
    Rig,
    Seen,
    Upstream,
    answer,
    close,
    event,
    eventually,
    framed,
    hang,
    make_model,
    replicas,
    request_bytes,
    scenario,
    stream,
)
from plinth.tests.gateway.limits.builders import make_limit
from plinth.tests.gateway.limits.real_redis import RealRedis, running_redis
from plinth.tests.gateway.wire.rig import bearer, make_access, make_policy, model_at, serving, told, used

pytestmark = pytest.mark.process

USAGE = {"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 30}}


@pytest.mark.parametrize(
    ("limit", "refusal", "retried"),
    [
        (make_limit("requests", 1, 1), (429, "rate_limit_exceeded", "requests"), "true"),
        (make_limit("requests", 1, 30), (429, "rate_limit_exceeded", "requests"), "true"),
        (make_limit("requests", 1, HOUR), (429, "rate_limit_exceeded", "requests"), "false"),
        (make_limit("requests", 1, DAY), (403, "insufficient_quota", "insufficient_quota"), "false"),
        (make_limit("inputTokens", 40, 30), (429, "rate_limit_exceeded", "tokens"), "true"),
        (make_limit("outputTokens", 30, 30), (429, "rate_limit_exceeded", "tokens"), "true"),
        (make_limit("totalTokens", 70, 30), (429, "rate_limit_exceeded", "tokens"), "true"),
        (make_limit("outputTokens", 30, DAY), (403, "insufficient_quota", "insufficient_quota"), "false"),
        (make_limit("requests", 1, 30, "policy"), (429, "rate_limit_exceeded", "requests"), "true"),
        (make_limit("requests", 1, 30, "model"), (429, "rate_limit_exceeded", "requests"), "true"),
    ],
    ids=lambda value: (
        f"{value.dimension}-{value.window_seconds}-{value.scope}" if isinstance(value, Limit) else None
    ),
)
def test_what_exceeds_a_limit_is_refused_as_clients_understand_it(
    tmp_path: Path, limit: Limit, refusal: tuple[int, str, str], retried: str
) -> None:
    @scenario
    async def run() -> None:
        access = make_access(make_policy(limit))
        async with (
            replicas(answer(USAGE)) as (upstream,),
            serving(tmp_path, model_at(upstream.port), access=access) as rig,
        ):
            first = await rig.ask(headers=bearer(), body={"model": "tiny", "messages": [], "max_tokens": 30})
            assert first.status == 200
            what = "requests" if limit.dimension == "requests" else "tokens"
            assert first.headers[f"x-ratelimit-limit-{what}"] == str(limit.amount)
            assert first.headers[f"x-ratelimit-remaining-{what}"].isdigit()
            assert first.headers[f"x-ratelimit-reset-{what}"]
            got = await rig.ask(headers=bearer())
            assert told(got) == refusal
            assert got.headers["x-should-retry"] == retried
            wait = int(got.headers["retry-after-ms"]) / 1000
            assert 0 < wait <= 1.2 * limit.window_seconds
            assert wait <= int(got.headers["retry-after"]) <= wait + 1
            assert "team/some" in got.json()["error"]["message"]
            assert len(upstream.seen) == 1

    run()


@scenario
async def test_requests_at_once_are_counted_until_they_end_or_their_clients_hang_up(tmp_path: Path) -> None:
    limit = make_limit("concurrency", 3)
    async with (
        replicas(hang) as (upstream,),
        serving(
            tmp_path, model_at(upstream.port, concurrency=1), access=make_access(make_policy(limit))
        ) as rig,
    ):
        clients = [await rig.connect() for _ in range(3)]
        for client in clients:
            client.send(request_bytes(headers=bearer()))
        await eventually(lambda: used(rig, limit) == 3)
        got = await rig.ask(headers=bearer())
        assert told(got) == (429, "rate_limit_exceeded", "requests")
        assert int(got.headers["retry-after-ms"]) <= 300
        for left, client in enumerate(reversed(clients)):  # those in the queue first
            client.close()
            await eventually(lambda left=left: used(rig, limit) == 2 - left)  # type: ignore[misc]


@scenario
async def test_a_place_is_free_again_when_a_client_leaves_its_stream(tmp_path: Path) -> None:
    limit = make_limit("concurrency", 1)
    async with (
        replicas(stream(1000, every=0.01)) as (upstream,),
        serving(tmp_path, model_at(upstream.port), access=make_access(make_policy(limit))) as rig,
    ):
        client = await rig.connect()
        client.send(request_bytes(body=STREAMING, headers=bearer()))
        await client.head()
        assert used(rig, limit) == 1
        client.close()
        await eventually(lambda: used(rig, limit) == 0)
        await eventually(lambda: upstream.seen[0].hung_up)


@pytest.mark.parametrize("resume_seconds", [30.0, 0.0])
@pytest.mark.parametrize("asks", [False, True])
def test_a_streams_tokens_are_those_its_engine_tells_and_shown_only_to_who_asks(
    tmp_path: Path, resume_seconds: float, *, asks: bool
) -> None:
    @scenario
    async def run() -> None:
        limits = make_limit("inputTokens", 10_000, HOUR), make_limit("outputTokens", 10_000, HOUR)
        access = make_access(make_policy(*limits))
        body: dict[str, Any] = STREAMING | ({"stream_options": {"include_usage": True}} if asks else {})
        async with (
            replicas(stream(20)) as (upstream,),
            serving(tmp_path, model_at(upstream.port), access=access, resume_seconds=resume_seconds) as rig,
        ):
            got = await rig.ask(headers=bearer(), body=body)
            assert got.body.endswith(b"data: [DONE]\n\n")
            assert got.body.startswith(b"".join([event(f"t{index}") for index in range(20)]))
            assert (b"usage" in got.body) == asks
            asked = json.loads(upstream.seen[0].body)
            assert asked["stream_options"] == {"include_usage": True}
            assert ("return_token_ids" in asked) == (resume_seconds > 0)
            assert [used(rig, limit) for limit in limits] == [7, 20]

    run()


def test_the_tokens_of_a_stream_that_no_editor_reads_are_its_engines_too(tmp_path: Path) -> None:
    async def behave(_upstream: Upstream, _seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for line in (event("t0"), f"data: {json.dumps(USAGE)}\n\n".encode(), b"data: [DONE]\n\n"):
            writer.write(framed(line.replace(b"\n", b"\r\n")))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    @scenario
    async def run() -> None:
        limits = make_limit("inputTokens", 10_000, HOUR), make_limit("outputTokens", 10_000, HOUR)
        access = make_access(make_policy(*limits))
        async with (
            replicas(behave) as (upstream,),
            serving(tmp_path, model_at(upstream.port), access=access) as rig,
        ):
            got = await rig.ask(headers=bearer(), body=STREAMING)
            assert got.body.endswith(b"data: [DONE]\r\n\r\n")
            assert [used(rig, limit) for limit in limits] == [40, 30]

    run()


@pytest.mark.parametrize("reached", ["nothing", "a replica"])
def test_a_request_counts_only_if_a_replica_has_had_it(tmp_path: Path, reached: str) -> None:
    @scenario
    async def run() -> None:
        limits = make_limit("requests", 10, HOUR), make_limit("totalTokens", 10_000, HOUR)
        access = make_access(make_policy(*limits))
        async with replicas(hang) as (upstream,):
            model = model_at(upstream.port) if reached == "a replica" else make_model()
            async with serving(tmp_path, model, access=access) as rig:
                client = await rig.connect()
                client.send(request_bytes(headers=bearer()))
                if reached == "a replica":
                    await eventually(lambda: upstream.seen)
                await eventually(lambda: rig.gateway.core.limiter._counters)
                assert [used(rig, limit) > 0 for limit in limits] == [True, True]
                client.close()
                expected = [1, True] if reached == "a replica" else [0, False]
                await eventually(lambda: [used(rig, limits[0]), used(rig, limits[1]) > 0] == expected)

    run()


@scenario
async def test_a_request_that_no_replica_takes_gives_everything_back(tmp_path: Path) -> None:
    limits = (
        make_limit("requests", 10, HOUR),
        make_limit("totalTokens", 10_000, HOUR),
        make_limit("concurrency", 5),
    )
    async with replicas(close) as (upstream,):
        port = upstream.port
        await upstream.stop()
        async with serving(
            tmp_path, model_at(port), access=make_access(make_policy(*limits)), queue_seconds=0.3
        ) as rig:
            assert (await rig.ask(headers=bearer())).status == 503
            assert [used(rig, limit) for limit in limits] == [0, 0, 0]


@scenario
async def test_limits_go_on_counting_when_their_table_comes_anew(tmp_path: Path) -> None:
    async with replicas(None) as (upstream,):
        access = make_access(make_policy(make_limit("requests", 1, HOUR)))
        async with serving(tmp_path, model_at(upstream.port), access=access) as rig:
            assert (await rig.ask(headers=bearer())).status == 200
            await rig.admit_by(access)
            assert (await rig.ask(headers=bearer())).status == 429
            await rig.admit_by(make_access(make_policy(make_limit("requests", 2, HOUR))))
            assert (await rig.ask(headers=bearer())).status == 200
            assert (await rig.ask(headers=bearer())).status == 429


# --- counts that gateways share --------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def two_gateways(folder: Path, redis: RealRedis, port: int, access: Any) -> Any:
    shared = Shared(redis=redis.address)
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    async with (
        serving(folder / "one", model_at(port), access=access, shared=shared) as one,
        serving(folder / "two", model_at(port), access=access, shared=shared) as two,
    ):
        for rig in (one, two):
            await eventually(lambda rig=rig: not is_away(rig))  # type: ignore[misc]
        yield one, two


def is_away(rig: Rig) -> bool:
    leases = rig.gateway.core.leases
    assert leases is not None
    return leases._sharing.backend.away


@scenario
async def test_two_gateways_let_in_together_what_a_limit_says(tmp_path: Path) -> None:
    access = make_access(make_policy(make_limit("requests", 50, HOUR)))
    async with (
        running_redis(tmp_path) as redis,
        replicas(None) as (upstream,),
        two_gateways(tmp_path, redis, upstream.port, access) as (one, two),
    ):
        asked = [rig.ask(headers=bearer()) for _ in range(60) for rig in (one, two)]
        answers = await asyncio.gather(*asked)
        assert sum(got.status == 200 for got in answers) == 50
        assert {got.status for got in answers} == {200, 429}


@pytest.mark.parametrize("how", ["slow", "killed"])
@pytest.mark.parametrize(("away", "status"), [("Allow", 200), ("Deny", 503)])
def test_while_redis_is_away_a_policy_says_who_is_let_in(
    tmp_path: Path, how: str, away: Any, status: int
) -> None:
    @scenario
    async def run() -> None:
        access = make_access(make_policy(make_limit("requests", 100, HOUR), on_backend_away=away))
        async with (
            running_redis(tmp_path) as redis,
            replicas(None) as (upstream,),
            two_gateways(tmp_path, redis, upstream.port, access) as (one, _),
        ):
            if how == "slow":
                redis.freeze()
            else:
                await redis.kill()
            began = time.monotonic()
            got = await one.ask(headers=bearer())
            assert time.monotonic() - began < 0.5
            assert got.status == status
            if status == 503:
                assert told(got)[1] == "quota_backend_away"
                assert (got.headers["retry-after"], got.headers["x-should-retry"]) == ("2", "true")
            redis.thaw() if how == "slow" else await redis.start()
            await eventually(lambda: not is_away(one), seconds=8)
            assert (await one.ask(headers=bearer())).status == 200

    run()


@scenario
async def test_a_client_that_leaves_while_redis_is_asked_leaves_nothing_counted(tmp_path: Path) -> None:
    limit = make_limit("concurrency", 4)
    async with (
        running_redis(tmp_path) as redis,
        replicas(None) as (upstream,),
        two_gateways(tmp_path, redis, upstream.port, make_access(make_policy(limit))) as (one, _),
    ):
        redis.freeze()
        client = await one.connect()
        client.send(request_bytes(headers=bearer()))
        await asyncio.sleep(0.01)
        client.close()
        await asyncio.sleep(0.1)
        redis.thaw()
        await eventually(lambda: not is_away(one), seconds=8)
        assert used(one, limit) == 0
        assert not upstream.seen
