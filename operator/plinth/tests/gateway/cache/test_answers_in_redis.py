"""Answers that gateways share through a real Redis, and what happens when it is slow or away."""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from plinth.gateway.cache.answer import Answer
from plinth.gateway.cache.flights import Flight
from plinth.gateway.server.response_cache import Command, Reply, ResponseCache
from plinth.tests.gateway.harness import scenario

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")

ANSWER = Answer(((b"content-type", b"application/json"),), b'{"a":1}\r\n$-1\r\n', 10, 2)
KEY = bytes(range(32))


class Connection:
    """Speaks RESP2, one batch at a time; connects anew for each."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked = 0

    async def execute(self, commands: Sequence[Command]) -> list[Reply]:
        self.asked += len(commands)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for command in commands:
                writer.write(b"*%d\r\n" % len(command))
                writer.writelines(b"$%d\r\n%s\r\n" % (len(part), part) for part in command)
            return [await self._reply(reader) for _ in commands]
        finally:
            writer.close()

    async def _reply(self, reader: asyncio.StreamReader) -> Reply:
        line = (await reader.readuntil(b"\r\n"))[:-2]
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else (await reader.readexactly(size + 2))[:-2]
        if kind == b"-":
            raise OSError(rest.decode())
        return int(rest) if kind == b":" else rest.decode()


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def redis() -> AsyncIterator[Connection]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        "redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1",
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    connection = Connection(port)
    try:
        while True:
            try:
                await connection.execute([(b"PING",)])
                break
            except OSError:
                await asyncio.sleep(0.01)
        yield connection
    finally:
        process.kill()
        await process.wait()


def make_cache(redis: Connection) -> ResponseCache:
    return ResponseCache(most_bytes=1 << 20, answer_bytes=1 << 16, flight_bytes=1 << 20, redis=redis)


def ask(cache: ResponseCache) -> Listening:
    listening = Listening()
    listening.flight = cache.share(KEY, listening, time.monotonic())
    return listening


async def settle(cache: ResponseCache) -> None:
    assert cache.redis is not None
    await cache.redis.close()


@scenario
async def test_what_one_gateway_keeps_another_finds_with_the_time_that_is_left() -> None:
    async with redis() as connection:
        one, other = make_cache(connection), make_cache(connection)
        one.keep(KEY, ANSWER, 30.0, time.monotonic())
        await settle(one)
        listening = ask(other)
        await listening.ended.wait()
        assert listening.got == ANSWER.body
        assert listening.flight is not None
        assert (listening.flight.status, listening.flight.outcome) == (200, "hit")
        found = other.find(KEY, time.monotonic())
        assert found is not None
        assert found[0] == ANSWER
        assert 25 < found[1] <= 30


@scenario
async def test_all_who_ask_at_once_cost_redis_one_question_and_the_first_leads() -> None:
    async with redis() as connection:
        cache = make_cache(connection)
        before = connection.asked
        everyone = [ask(cache) for _ in range(50)]
        await everyone[0].leads.wait()
        assert connection.asked - before == 2
        flight = everyone[0].flight
        assert flight is not None
        flight.begin(200, ANSWER.headers)
        flight.feed(ANSWER.body)
        flight.end()
        assert [item.got for item in everyone] == [b""] + [ANSWER.body] * 49


@scenario
async def test_answers_go_when_their_time_is_up() -> None:
    async with redis() as connection:
        one, other = make_cache(connection), make_cache(connection)
        one.keep(KEY, ANSWER, 0.05, time.monotonic())
        await settle(one)
        await asyncio.sleep(0.06)
        listening = ask(other)
        await listening.leads.wait()


@scenario
async def test_foreign_bytes_under_the_name_are_a_miss() -> None:
    async with redis() as connection:
        await connection.execute([(b"SET", b"plinth:answer:1:" + KEY, b"\x00junk", b"PX", b"9000")])
        listening = ask(make_cache(connection))
        await listening.leads.wait()


@scenario
async def test_a_redis_that_is_away_is_a_miss_and_is_left_alone_for_a_second() -> None:
    cache = make_cache(Connection(free_port()))
    listening = ask(cache)
    await listening.leads.wait()
    assert ask(cache).flight is listening.flight  # under way, no need of Redis
    assert listening.flight is not None
    listening.flight.end()
    assert ask(cache).flight is None  # to lead at once
    cache.keep(KEY, ANSWER, 30.0, time.monotonic())
    assert cache.redis is not None
    assert cache.redis.dropped == 1
    assert cache.find(KEY, time.monotonic()) is not None
    assert cache.redis.is_near(time.monotonic() + 1.0)


@scenario
async def test_a_redis_that_does_not_answer_delays_a_request_by_30_ms() -> None:
    deaf = socket.socket()
    deaf.bind(("127.0.0.1", 0))
    deaf.listen()
    try:
        cache = make_cache(Connection(deaf.getsockname()[1]))
        began = time.monotonic()
        await ask(cache).leads.wait()
        assert 0.02 < time.monotonic() - began < 0.5
    finally:
        deaf.close()


@scenario
async def test_what_waits_for_redis_is_bounded() -> None:
    async with redis() as connection:
        cache = make_cache(connection)
        big = Answer((), b"x" * 1_000_000, 0, 0)
        for number in range(12):
            cache.keep(b"%d" % number, big, 30.0, time.monotonic())
        await settle(cache)
        assert cache.redis is not None
        assert cache.redis.dropped == 4
