"""Gateways that share limits through a real Redis: together within them, whatever becomes of Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.access import HOUR
from plinth.gateway.limits.admission import Reservation
from plinth.gateway.limits.answers import Denial
from plinth.gateway.protocol.resp import MalformedReplyError, RedisError, Reply, ReplyReader, command
from plinth.gateway.server.leases import LeaseTimes, _evalsha
from plinth.gateway.server.redis import connect_to_redis
from plinth.tests.gateway.limits.builders import make_limit, read_lines
from plinth.tests.gateway.limits.real_redis import RealRedis, free_port, running_redis
from plinth.tests.gateway.limits.sharers import Sharer, sharing, until

pytestmark = pytest.mark.process


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RealRedis]:
    async with running_redis(tmp_path) as running:
        yield running


@pytest.mark.parametrize("window", [60, HOUR])
async def test_gateways_together_let_through_what_one_would(redis: RealRedis, window: int) -> None:
    async with sharing(redis.address, 3) as three:
        limit = make_limit("requests", 50, window)
        passed = await asyncio.gather(*[each.count(each.account(limit), 40) for each in three])
        assert 50 <= sum(passed) <= 50 + (5 if window == 60 else 0)  # 0.8 a second drain


async def test_all_limits_of_a_request_are_granted_or_none(redis: RealRedis) -> None:
    async with sharing(redis.address, 2) as (one, two):
        limits = (make_limit("requests", 100), make_limit("inputTokens", 1000, HOUR))
        assert isinstance(await one.ask(one.account(*limits), 900), Reservation)
        denial = await two.ask(two.account(*limits), 200)
        assert isinstance(denial, Denial)
        assert "input tokens per hour" in denial.refusal.message
        assert await two.ask(two.account(*limits), 50)
        await until(lambda: one.account(*limits).meters[0].counter.used(time.monotonic()) <= 2)


async def test_what_was_not_used_is_there_for_the_other_gateway(redis: RealRedis) -> None:
    async with sharing(redis.address, 2) as (one, two):
        limit = make_limit("totalTokens", 1000, HOUR)
        first = await one.ask(one.account(limit), 100, 900)
        assert isinstance(await two.ask(two.account(limit), 100, 100), Denial)
        one.settle(first, 100, 50)
        await asyncio.sleep(0.3)
        assert isinstance(await two.ask(two.account(limit), 700, 100), Reservation)
        assert isinstance(await two.ask(two.account(limit), 100, 100), Denial)


async def test_more_than_was_reserved_is_owed_by_all(redis: RealRedis) -> None:
    async with sharing(redis.address, 2) as (one, two):
        limit = make_limit("outputTokens", 1000, HOUR)
        one.settle(await one.ask(one.account(limit), 1, 100), 1, 990)
        await asyncio.sleep(0.3)
        assert isinstance(await two.ask(two.account(limit), 1, 20), Denial)
        assert isinstance(await two.ask(two.account(limit), 1, 10), Reservation)


async def test_slots_are_shared_and_come_back_from_a_gateway_that_died(redis: RealRedis) -> None:
    async with sharing(redis.address, 2) as (one, two):
        limit = make_limit("concurrency", 3)
        held = [await one.ask(one.account(limit)) for _ in range(2)]
        assert await two.count(two.account(limit), 3) == 1
        one.settle(held[0], 1, 1)
        await asyncio.sleep(0.3)
        assert await two.count(two.account(limit), 3) == 1
    # The first gateway has stopped with a request under way: its slot is free when its report is old.
    async with sharing(redis.address, 1) as (three,):
        assert await three.count(three.account(limit), 3) < 3
        await asyncio.sleep(3.3)
        assert await three.count(three.account(limit), 3) > 0


async def test_headers_tell_what_all_gateways_have_left(redis: RealRedis) -> None:
    async with sharing(redis.address, 2) as (one, two):
        limit = make_limit("requests", 100, HOUR)
        await one.count(one.account(limit), 30)
        await two.count(two.account(limit), 1)
        await asyncio.sleep(0.4)
        await two.count(two.account(limit), 1)
        headers = read_lines(two.sharing.limiter.headers(two.account(limit), time.monotonic()))
        assert 60 <= int(headers[b"x-ratelimit-remaining-requests"]) <= 70


async def test_with_redis_frozen_a_share_is_allowed_or_nothing_as_the_policy_says(redis: RealRedis) -> None:
    times = LeaseTimes(answer=0.03, rest=0.1)
    async with sharing(redis.address, 2, times) as (one, two):
        await until(lambda: one.sharing.backend.gateways == two.sharing.backend.gateways == 2)
        limit = make_limit("requests", 100, HOUR)
        open_, closed = one.account(limit), one.account(limit, key="pk_b", on_backend_away="Deny")
        redis.freeze()
        began = time.monotonic()
        denial = await one.ask(closed)
        assert time.monotonic() - began < 0.2
        assert isinstance(denial, Denial)
        assert denial.refusal.status == 503
        assert await one.count(open_, 80) == 50
        redis.thaw()
        await one.until_back()
        # What was let through meanwhile is counted now: by the other gateway too.
        await asyncio.sleep(0.3)
        assert 46 <= await two.count(two.account(limit), 80) <= 50  # the other may hold a little spare
        assert isinstance(await one.ask(closed), Reservation)


async def test_a_redis_that_died_and_lost_everything_learns_what_still_counts(
    redis: RealRedis,
) -> None:
    async with sharing(redis.address, 2) as (one, two):
        limit = make_limit("requests", 100, HOUR)
        assert await one.count(one.account(limit), 30) == 30
        assert await two.count(two.account(limit), 20) == 20
        await redis.kill()
        await until(lambda: one.sharing.backend.away and two.sharing.backend.away)
        assert await one.count(one.account(limit), 10) == 10
        await redis.start()
        await one.until_back()
        await two.until_back()
        # The other gateway asks for nothing itself, and its use counts all the same.
        assert 37 <= await one.count(one.account(limit), 80) <= 40  # the other may hold a little spare


async def test_scripts_that_were_flushed_are_loaded_again(redis: RealRedis) -> None:
    async with sharing(redis.address, 1) as (one,):
        connection = await redis.connect()
        await connection.ask(b"SCRIPT", b"FLUSH")
        account = one.account(make_limit("requests", 10, HOUR))
        assert isinstance(await one.ask(account), Reservation)
        await one.until_back()
        assert await one.count(account, 20) == 9
        connection.close()


async def test_a_report_that_is_sent_twice_counts_once(redis: RealRedis) -> None:
    async with sharing(redis.address, 1) as (one,):
        account = one.account(make_limit("outputTokens", 1000, HOUR))
        first = await one.ask(account, 1, 10)
        await asyncio.sleep(0.3)
        one.settle(first, 1, 500)
        sent = list(one.sharing.report(time.monotonic()))
        connection = await redis.connect()
        replies: list[Reply] = []
        for _ in range(2):
            connection.send(_evalsha(sent[0]), replies.append)
        await until(lambda: len(replies) == 2)
        assert isinstance(replies[1], list)
        assert replies[1][1] == pytest.approx(500, abs=110)
        connection.close()


async def test_without_a_redis_the_limit_is_kept_locally_from_the_start(tmp_path: Path) -> None:
    absent = RealRedis(tmp_path)
    gateway = Sharer("g", absent.address)
    gateway.leases.start()
    assert await gateway.count(gateway.account(make_limit("requests", 5, HOUR)), 9) == 5
    await gateway.leases.stop()


async def test_a_wrong_password_is_no_connection(redis: RealRedis) -> None:
    with pytest.raises(RedisError):
        await connect_to_redis(replace(redis.address, password="wrong"), lambda: None, 1.0)
    with pytest.raises(OSError, match=r"refused|Connect"):
        await connect_to_redis(replace(redis.address, port=free_port()), lambda: None, 1.0)


ANSWERS = b":5\r\n$3\r\na\r\n\r\n*2\r\n:1\r\n*1\r\n$-1\r\n+OK\r\n-ERR no\r\n*-1\r\n"


@given(st.lists(st.integers(0, len(ANSWERS)), max_size=8))
def test_answers_are_read_whole_from_any_pieces(cuts: list[int]) -> None:
    reader, replies = ReplyReader(), []
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(ANSWERS)], strict=True):
        replies += reader.feed(ANSWERS[begin:end])
    assert [reply for reply in replies if not isinstance(reply, RedisError)] == [
        5,
        b"a\r\n",
        [1, [None]],
        b"OK",
        None,
    ]


def test_bytes_that_are_no_answer_are_an_error() -> None:
    with pytest.raises(MalformedReplyError):
        ReplyReader().feed(b"HTTP/1.1 400 Bad Request\r\n")
    assert command(b"a", b"") == b"*2\r\n$1\r\na\r\n$0\r\n\r\n"
