"""Answers that gateways share through a real Redis, and what happens when it is slow, full or away."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import pytest

from plinth.gateway.cache.answer import Answer
from plinth.gateway.cache.flights import Flight
from plinth.gateway.server.redis import RedisAddress
from plinth.gateway.server.response_cache import ResponseCache
from plinth.tests.gateway.harness import eventually, scenario
from plinth.tests.gateway.limits.real_redis import RealRedis, free_port, running_redis

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")

ANSWER = Answer(((b"content-type", b"application/json"),), b'{"a":1}\r\n$-1\r\n', 10, 2)
KEY = bytes(range(32))


class Listening:
    rank = 2

    def __init__(self) -> None:
        self.flight: Flight | None = None
        self.got = b""
        self.leads = asyncio.Event()
        self.ended = asyncio.Event()

    def on_news(self) -> None:
        assert self.flight is not None
        self.got += self.flight.read(self)
        if self.flight.has_ended():
            self.ended.set()
            self.flight.leave(self)

    def on_lead(self, flight: Flight) -> None:
        self.leads.set()

    def on_left_behind(self) -> None:
        raise AssertionError


def make_cache(address: RedisAddress) -> ResponseCache:
    return ResponseCache(most_bytes=1 << 20, answer_bytes=1 << 16, flight_bytes=1 << 20, redis=address)


async def connected(redis: RealRedis) -> ResponseCache:
    cache = make_cache(redis.address)
    await eventually(lambda: is_near(cache))
    return cache


def is_near(cache: ResponseCache) -> bool:
    assert cache.redis is not None
    return cache.redis.is_near(time.monotonic())


def dropped(cache: ResponseCache) -> int:
    assert cache.redis is not None
    return cache.redis.dropped


def ask(cache: ResponseCache) -> Listening:
    listening = Listening()
    listening.flight = cache.share(KEY, listening, time.monotonic())
    return listening


async def kept(redis: RealRedis, cache: ResponseCache) -> None:
    cache.keep(KEY, ANSWER, 30.0, time.monotonic())
    connection = await redis.connect()
    while await connection.ask(b"DBSIZE") != 1:
        await asyncio.sleep(0.001)
    connection.close()


@scenario
async def test_what_one_gateway_keeps_another_finds_with_the_time_that_is_left(tmp_path: Path) -> None:
    async with running_redis(tmp_path) as redis:
        one, other = await connected(redis), await connected(redis)
        await kept(redis, one)
        listening = ask(other)
        await listening.ended.wait()
        assert listening.got == ANSWER.body
        assert listening.flight is not None
        assert (listening.flight.status, listening.flight.outcome) == (200, "hit")
        found = other.find(KEY, time.monotonic())
        assert found is not None
        assert found[0] == ANSWER
        assert 25 < found[1] <= 30
        await one.close()
        await other.close()


@scenario
async def test_all_who_ask_at_once_cost_redis_one_question_and_the_first_leads(tmp_path: Path) -> None:
    async with running_redis(tmp_path) as redis:
        cache = await connected(redis)
        everyone = [ask(cache) for _ in range(50)]
        await everyone[0].leads.wait()
        connection = await redis.connect()
        said = await connection.ask(b"INFO", b"commandstats")
        assert isinstance(said, bytes)
        assert b"cmdstat_get:calls=1," in said
        connection.close()
        flight = everyone[0].flight
        assert flight is not None
        flight.begin(200, ANSWER.headers)
        flight.feed(ANSWER.body)
        flight.end()
        assert [item.got for item in everyone] == [b""] + [ANSWER.body] * 49
        await cache.close()


@scenario
async def test_answers_go_when_their_time_is_up(tmp_path: Path) -> None:
    async with running_redis(tmp_path) as redis:
        one, other = await connected(redis), await connected(redis)
        one.keep(KEY, ANSWER, 0.1, time.monotonic())
        await asyncio.sleep(0.2)
        await ask(other).leads.wait()
        await one.close()
        await other.close()


@scenario
async def test_foreign_bytes_under_the_name_are_a_miss(tmp_path: Path) -> None:
    async with running_redis(tmp_path) as redis:
        cache, connection = await connected(redis), await redis.connect()
        await connection.ask(b"SET", b"plinth:answer:1:" + KEY, b"\x00junk", b"PX", b"9000")
        await ask(cache).leads.wait()
        await connection.ask(b"DEL", b"plinth:answer:1:" + KEY)
        await connection.ask(b"LPUSH", b"plinth:answer:1:" + KEY, b"x")
        flight = ask(cache).flight  # the one that leads still does
        assert flight is not None
        flight.end()
        await ask(cache).leads.wait()
        connection.close()
        await cache.close()


@scenario
async def test_a_redis_that_is_away_delays_nobody_and_comes_back(tmp_path: Path) -> None:
    async with running_redis(tmp_path) as redis:
        cache = await connected(redis)
        await redis.kill()
        await eventually(lambda: not is_near(cache))
        assert ask(cache).flight is None  # to lead at once
        cache.keep(KEY, ANSWER, 30.0, time.monotonic())
        assert dropped(cache) == 1
        assert cache.find(KEY, time.monotonic()) is not None
        await redis.start()
        await eventually(lambda: is_near(cache))
        await kept(redis, cache)
        await cache.close()


@scenario
async def test_a_redis_that_was_never_there_delays_nobody() -> None:
    cache = make_cache(RedisAddress("127.0.0.1", free_port()))
    for _ in range(3):
        assert ask(cache).flight is None
        await asyncio.sleep(0.01)
    await cache.close()


@scenario
async def test_a_redis_that_does_not_answer_delays_a_request_by_30_ms_and_the_next_not_at_all(
    tmp_path: Path,
) -> None:
    async with running_redis(tmp_path) as redis:
        cache = await connected(redis)
        redis.freeze()
        try:
            began = time.monotonic()
            listening = ask(cache)
            await listening.leads.wait()
            assert 0.02 < time.monotonic() - began < 0.5
            assert listening.flight is not None
            listening.flight.end()
            assert ask(cache).flight is None
        finally:
            redis.thaw()
        await cache.close()


@scenario
async def test_what_redis_has_not_confirmed_is_bounded(tmp_path: Path) -> None:
    async with running_redis(tmp_path) as redis:
        cache = await connected(redis)
        big = Answer((), b"x" * 1_000_000, 0, 0)
        for number in range(12):
            cache.keep(b"%d" % number, big, 30.0, time.monotonic())
        assert dropped(cache) == 4
        await eventually(lambda: cache.redis is not None and cache.redis._unsettled == 0)
        await cache.close()


@scenario
async def test_a_redis_that_is_full_keeps_nothing_and_harms_nothing(tmp_path: Path) -> None:
    async with running_redis(tmp_path) as redis:
        cache, connection = await connected(redis), await redis.connect()
        await connection.ask(b"CONFIG", b"SET", b"maxmemory", b"1")
        cache.keep(KEY, ANSWER, 30.0, time.monotonic())
        await eventually(lambda: dropped(cache) == 1)
        assert is_near(cache)
        connection.close()
        await cache.close()
