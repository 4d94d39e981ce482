"""Everything at once: clients that leave, replicas that fail in every way, tables that change. Nothing may be left of it."""

# ruff: noqa: S311 - dice, no secrets
from __future__ import annotations

import asyncio
import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest

from plinth.domain.access import HOUR
from plinth.domain.control_lines import encode_table
from plinth.domain.traffic import Availability, ReplicaState, RouteTable, TrafficShare
from plinth.gateway.shared_options import Shared
from plinth.tests.gateway.harness import (
    STREAM_HEAD,
    Behaviour,
    Rig,
    Seen,
    Upstream,
    eventually,
    make_model,
    make_replica,
    make_table,
    replicas,
    request_bytes,
    scenario,
    whole,
)
from plinth.tests.gateway.limits.builders import make_limit
from plinth.tests.gateway.limits.real_redis import RealRedis, running_redis
from plinth.tests.gateway.test_resume_on_the_wire import CHAT
from plinth.tests.gateway.test_resume_on_the_wire import serving as engine_serving
from plinth.tests.gateway.token_engine import Engine, read_stream
from plinth.tests.gateway.wire.rig import bearer, make_access, make_key, make_policy, serving, used

pytestmark = pytest.mark.process

LIMITS = make_limit("concurrency", 60, scope="policy"), make_limit("totalTokens", 10**7, HOUR, "policy")
ACCESS = make_access(
    make_policy(*LIMITS, name="team/some", queue_seconds=3.0),
    make_policy(name="team/kept", priority="bulk", cache="All", cache_seconds=1, queue_seconds=3.0),
    keys=(
        make_key("sk-plain", "team/some"),
        make_key("sk-kept", "team/kept"),
        make_key("sk-both", "team/some", "team/kept"),
    ),
)
DOCUMENT = whole(
    b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}],'
    b' "usage": {"prompt_tokens": 7, "completion_tokens": 5}}'
)
PATHS: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "Tell"}]},
    "/v1/messages": {"max_tokens": 20, "messages": [{"role": "user", "content": "Tell"}]},
    "/v1/responses": {"input": "Tell"},
}


WRECKED = (
    whole(b'{"error": {"message": "loading"}}', "503 Service Unavailable"),
    whole(b'{"error": {"message": "no"}}', "500 Internal Server Error"),
    b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
    STREAM_HEAD + b"7\r\nrubbish",
    b"\x00\xff not HTTP\r\n\r\n",
    b"",
)
"""Answers after which the replica hangs up."""


def moody(dice: random.Random) -> Behaviour:
    """A replica that does anything, and in three of four cases what it should."""

    async def behave(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
        streams, is_question = (
            b'"stream":true' in seen.body.replace(b" ", b""),
            "completions" not in seen.line,
        )
        mood = "well" if is_question or dice.random() < 0.75 else dice.choice(("cut", "wrecked", "late"))
        if mood in {"well", "cut"} and (streams or is_question):
            after = dice.randrange(20) if mood == "cut" else None
            await engine_serving(Engine(), every=0.003, ends_after=after, how="cut")(upstream, seen, writer)
        elif mood == "well":
            writer.write(DOCUMENT)
        else:
            await asyncio.sleep(0.3 if mood == "late" else 0)
            writer.write(dice.choice(WRECKED))
            writer.close()

    return behave


async def client(rig: Rig, dice: random.Random) -> None:
    """One connection with a few requests, most of which it waits for."""
    for _ in range(4):
        path = dice.choice(list(PATHS))
        body = PATHS[path] | {
            "model": dice.choice(["tiny", "tiny", "tiny", "fast", "other", "none"]),
            "stream": dice.random() < 0.7,
            "temperature": 0,
            "seed": dice.randrange(3),
        }
        key = dice.choice(["sk-plain", "sk-kept", "sk-both"])
        connection = await rig.connect()
        connection.send(request_bytes(path, body, headers=bearer(key)))
        try:
            async with asyncio.timeout(dice.choice([None, None, 0.001, 0.02, 0.1])):
                got = await connection.answer()
            assert got.status in {200, 404, 429, 500, 502, 503}, got
            if got.status == 200 and got.headers.get("content-type") == "text/event-stream" and path == CHAT:
                _check_stream(got.body, body)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            pass
        connection.close()


def _check_stream(data: bytes, body: dict[str, Any]) -> None:
    """It is whole, with no token lost or doubled, or it ends with one error that says so."""
    if b'"error"' in data:
        assert data.count(b'"error"') == 1
        assert b"[DONE]" not in data
        return
    seen = read_stream(data)
    undisturbed = read_stream(b"".join(Engine().stream(CHAT, json.dumps(body).encode())))
    assert (seen.texts, seen.finish, seen.done) == (undisturbed.texts, undisturbed.finish, True)


async def tables(rig: Rig, upstreams: list[Upstream], dice: random.Random) -> None:
    """Routes come and go, and so do access tables."""
    for version in range(2, 1000):
        await asyncio.sleep(dice.random() * 0.1)
        if dice.random() < 0.3:
            await rig.admit_by(ACCESS)
        rig.controller.send(encode_table(_table(version, upstreams, dice)))


def _table(version: int, upstreams: list[Upstream], dice: random.Random) -> RouteTable:
    replicas = [
        make_replica(
            each.port,
            slot=f"s{number}",
            concurrency=dice.choice([2, 8]),
            state=dice.choice([ReplicaState.READY, ReplicaState.READY, ReplicaState.DRAINING]),
        )
        for number, each in enumerate(upstreams)
        if dice.random() < 0.8
    ]
    models = [
        make_model(
            *replicas[:3],
            aliases=("fast",),
            fallbacks=("other",),
            availability=dice.choice([Availability.AVAILABLE] * 4 + [Availability.REFUSED]),
            message="turmoil",
            shares=(TrafficShare(model="team/other", percent=20, mirror_percent=30),),
        ),
        make_model(*replicas[3:], model="team/other", names=("other",)),
    ]
    return make_table(*(model for model in models if dice.random() < 0.95), version=version)


async def outages(redis: RealRedis, dice: random.Random, over: asyncio.Event) -> None:
    """The Redis that counts and answers are shared by is slow, or gone, for a moment; in the end it is well."""
    while not over.is_set():
        await asyncio.sleep(dice.random() * 0.2)
        redis.freeze()
        await asyncio.sleep(dice.random() * 0.1)
        redis.thaw()
        if dice.random() < 0.3:
            await redis.kill()
            await redis.start()


async def go_through(folder: Path, dice: random.Random, redis: RealRedis | None) -> None:
    patience = dict.fromkeys(("queue_seconds", "stream_idle_seconds"), 3.0) | {
        "resume_seconds": 1.0,
        "connect_seconds": 0.5,
    }
    shared = Shared() if redis is None else Shared(redis=redis.address, cache_place="redis")
    async with replicas(*[moody(dice) for _ in range(5)]) as upstreams:
        models = _table(1, upstreams, random.Random(0)).models
        async with serving(folder, *models, access=ACCESS, shared=shared, **patience) as rig:
            over = asyncio.Event()
            edits = asyncio.ensure_future(tables(rig, upstreams, dice))
            outage = asyncio.ensure_future(asyncio.sleep(0) if redis is None else outages(redis, dice, over))
            clients = [client(rig, random.Random(dice.random())) for _ in range(120)]
            async with asyncio.timeout(15):
                await asyncio.gather(*clients)
            edits.cancel()
            over.set()
            await outage
            await eventually(lambda: used(rig, LIMITS[0]) == 0)
        assert not rig.gateway.core.unattended


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "redis"])
def test_nothing_is_left_when_everything_has_happened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, seed: int, *, shared: bool
) -> None:
    @scenario
    async def run() -> None:
        dice = random.Random(seed)
        if shared:
            async with running_redis(tmp_path) as redis:
                await go_through(tmp_path, dice, redis)
        else:
            await go_through(tmp_path, dice, None)

    run()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], caplog.text
