"""Limits that several workers share through their parent: by the same law as through Redis, with the same bounds."""

from __future__ import annotations

import asyncio
import contextlib
import stat
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plinth.domain.access import HOUR
from plinth.gateway.limits.admission import Reservation
from plinth.gateway.limits.exchange import SCRIPT_TEXT
from plinth.gateway.limits.shared_counters import SharedCounters
from plinth.gateway.protocol.resp import RedisError
from plinth.gateway.server.counter_server import serve_counters
from plinth.gateway.server.redis import RedisAddress, connect_to_redis
from plinth.tests.gateway.limits.builders import make_limit
from plinth.tests.gateway.limits.real_redis import running_redis
from plinth.tests.gateway.limits.sharers import Sharer, sharing
from plinth.tests.searching import examples

# --- the same law as the script's ----------------------------------------------------------------------------

TOLD_TIME = SCRIPT_TEXT.replace(b"redis.call('TIME')", b"{ARGV[#ARGV - 1], ARGV[#ARGV]}")
"""The script, but that it is told what time it is."""
KINDS = {b"bucket": (10, 8), b"window": (20, 120), b"slots": (5, 0)}
"""Amounts and windows; of a bucket such that six decimals hold what is in it."""


@dataclass(frozen=True)
class Step:
    """One exchange: a worker reports some counters after some quarters of a second."""

    worker: int
    quarters: int
    reports: dict[bytes, tuple[int, int, int, int]]
    """Settle, own, need, want, by kind."""
    again: bool
    """Sent a second time, as after a connection that was lost."""


steps = st.builds(
    Step,
    worker=st.integers(0, 2),
    quarters=st.one_of(st.integers(0, 8), st.integers(0, 600)),
    reports=st.dictionaries(
        st.sampled_from(sorted(KINDS)),
        st.tuples(st.integers(-6, 12), st.integers(0, 12), st.integers(0, 8), st.integers(0, 12)),
        min_size=1,
    ),
    again=st.booleans(),
)


def make_exchange(step: Step, number: int, run: str) -> tuple[list[bytes], list[bytes]]:
    keys: list[bytes] = []
    arguments = [b"w%d" % step.worker, b"%d" % number]
    for kind, (settle, own, need, want) in sorted(step.reports.items()):
        amount, window = KINDS[kind]
        keys += [b"%s:%s" % (run.encode(), kind), b"%s:%s@w%d" % (run.encode(), kind, step.worker)]
        numbers = (amount, window, max(0, settle) if kind == b"slots" else settle, own, need, max(need, want))
        arguments += [kind, *(b"%d" % item for item in numbers)]
    return keys, arguments


@pytest.mark.process
async def test_the_parent_answers_every_exchange_as_redis_does(tmp_path: Path) -> None:
    assert TOLD_TIME != SCRIPT_TEXT
    runs = 0
    async with running_redis(tmp_path) as redis:
        connection = await redis.connect()
        loop = asyncio.get_running_loop()

        async def compare(history: list[Step]) -> None:
            nonlocal runs
            runs += 1
            counters, quarters = SharedCounters(), 4000
            for number, step in enumerate(history, 1):
                quarters += step.quarters
                keys, arguments = make_exchange(step, number, f"run{runs}")
                now = (b"%d" % (quarters // 4), b"%d" % (quarters % 4 * 250_000))
                for _ in range(1 + step.again):
                    count = b"%d" % len(keys)
                    theirs = await connection.ask(b"EVAL", TOLD_TIME, count, *keys, *arguments, *now)
                    assert counters.exchange(keys, arguments, quarters / 4) == theirs

        @settings(examples(150), suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(steps, min_size=1, max_size=12))
        def run(history: list[Step]) -> None:
            asyncio.run_coroutine_threadsafe(compare(history), loop).result(20)

        await asyncio.to_thread(run)
        connection.close()


def test_counters_that_count_nothing_any_more_are_forgotten_and_the_others_are_not() -> None:
    counters = SharedCounters()

    def use(name: int, now: float, window: bytes) -> None:
        arguments = [b"w", b"%d" % int(now * 10 + 1), b"bucket", b"10", window, b"1", b"1", b"0", b"0"]
        counters.exchange([b"k%d" % name, b"m"], arguments, now)

    for name in range(4000):
        use(name, 0.0, b"60")
    use(4000, 0.0, b"86400")
    for name in range(5000, 5100):
        use(name, 1000.0, b"60")
    assert len(counters) <= 101
    use(4000, 1000.1, b"86400")
    assert len(counters) <= 101, "it was still there"


def test_workers_that_are_silent_are_counted_no_more_and_later_forgotten() -> None:
    counters = SharedCounters()
    assert counters.heartbeat(b"one", 0.0) == 1
    assert counters.heartbeat(b"two", 1.0) == 2
    assert counters.heartbeat(b"two", 9.0) == 1
    assert counters.heartbeat(b"one", 10.0) == 2


# --- leases over the parent's socket -------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def workers(folder: Path, count: int) -> AsyncIterator[list[Sharer]]:
    path = folder / "g.sock.counters"
    server = await serve_counters(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    try:
        async with sharing(RedisAddress(path=path), count) as made:
            yield made
    finally:
        server.close()
        await asyncio.sleep(0)


@pytest.mark.parametrize("window", [60, HOUR])
async def test_workers_together_let_through_what_one_would(tmp_path: Path, window: int) -> None:
    async with workers(tmp_path, 4) as four:
        limit = make_limit("requests", 100, window)
        passed = await asyncio.gather(*[each.count(each.account(limit), 60) for each in four])
        assert 100 <= sum(passed) <= 100 + (5 if window == 60 else 0)  # 1.7 a second drain


async def test_one_worker_that_gets_all_of_a_keys_requests_gets_all_of_its_limit(tmp_path: Path) -> None:
    async with workers(tmp_path, 4) as four:
        account = four[0].account(make_limit("requests", 100, HOUR))
        assert await four[0].count(account, 120) == 100


async def test_slots_of_all_workers_are_counted_together(tmp_path: Path) -> None:
    async with workers(tmp_path, 2) as (one, two):
        limit = make_limit("concurrency", 3)
        first, second = one.account(limit), two.account(limit)
        held = [await one.ask(first) for _ in range(2)]
        assert await two.count(second, 3) == 1
        one.settle(held[0], 1, 1)
        await asyncio.sleep(0.3)
        assert await two.count(second, 3) == 1


async def test_a_question_to_the_parent_costs_far_less_than_its_time_limit(tmp_path: Path) -> None:
    async with workers(tmp_path, 1) as (one,):
        took: list[float] = []
        for key in range(50):
            account = one.account(make_limit("requests", 100), key=f"pk_{key}")
            began = time.monotonic()
            assert isinstance(await one.ask(account), Reservation)
            took.append(time.monotonic() - began)
        assert sorted(took)[25] < 0.01


async def test_what_no_worker_asks_is_refused_in_words_and_the_conversation_goes_on(tmp_path: Path) -> None:
    async with workers(tmp_path, 0):
        connection = await connect_to_redis(
            RedisAddress(path=tmp_path / "g.sock.counters"), lambda: None, 1.0
        )
        for wrong in (
            (b"FLUSHALL",),
            (b"EVALSHA", b"0" * 40, b"0"),
            (b"EVALSHA",),
            (b"PING", b"\xff"),
        ):
            with pytest.raises(RedisError):
                await connection.ask(*wrong)
        assert await connection.ask(b"SCRIPT", b"LOAD", b"x")
        connection.close()


async def test_a_socket_that_another_gateway_serves_is_left_alone(tmp_path: Path) -> None:
    async with workers(tmp_path, 0):
        with pytest.raises(FileExistsError):
            await serve_counters(tmp_path / "g.sock.counters")
