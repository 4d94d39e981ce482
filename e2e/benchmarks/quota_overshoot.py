"""What gateways that share limits through Redis let through beyond them: 100 keys at three times their limits.

    python e2e/benchmarks/quota_overshoot.py

Four processes count with the production code, against a real Redis on this machine. Each request holds its place
for a while and then turns out to have used other numbers of tokens than were reserved. Afterwards all that was let
through is put in order and held against each limit, counted in one place as if there were one gateway. A second run
kills Redis, which keeps nothing on disk, after a third of the time and starts it anew after two thirds.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import uvloop
from records import Record, installed_versions, this_command, write_records

from plinth.domain.access import HOUR, MINUTE, Limit
from plinth.gateway.access.terms import AppliedLimit, Terms
from plinth.gateway.limits.admission import Account, Reservation
from plinth.gateway.limits.answers import Denial
from plinth.gateway.limits.estimates import TokenEstimates
from plinth.gateway.limits.sharing import Sharing, Waiting
from plinth.gateway.server.leases import Leases, LeaseTimes
from plinth.gateway.server.redis import RedisAddress
from plinth.tests.gateway.limits.real_redis import RealRedis

WORKERS, KEYS, SECONDS = 4, 100, 30.0
TIMES_LIMIT = 3.0
REQUESTS_PER_SECOND = 5
"""What the tight limit of each key lets through."""
INPUT_TOKENS, OUTPUT_TOKENS = 200, 100
"""A request's means."""
SERVICE_SECONDS = 0.4
ANSWER_SECONDS = 2.0
"""That Redis gets to answer: a busy machine must not make it look away, which is the second run's matter."""
READY_SECONDS = 30.0
"""Until all workers have found Redis and each other."""
MODEL = "a/m"
LIMITS = (
    Limit(dimension="requests", window_seconds=1, amount=REQUESTS_PER_SECOND, scope="key"),
    Limit(dimension="requests", window_seconds=HOUR, amount=20 * REQUESTS_PER_SECOND, scope="key"),
    Limit(
        dimension="inputTokens",
        window_seconds=10,
        amount=10 * REQUESTS_PER_SECOND * INPUT_TOKENS,
        scope="key",
    ),
    Limit(
        dimension="outputTokens",
        window_seconds=10,
        amount=10 * REQUESTS_PER_SECOND * OUTPUT_TOKENS,
        scope="key",
    ),
    Limit(dimension="concurrency", window_seconds=0, amount=2, scope="key"),
)
SLACK = 20
"""Times the amount, of the limits of a key other than its tight one."""


def limits_of(key: int) -> list[Limit]:
    """All of them; the keys take turns in which is tight."""
    tight = key % len(LIMITS)
    return [
        limit if number == tight else replace(limit, amount=SLACK * limit.amount)
        for number, limit in enumerate(LIMITS)
    ]


@dataclass(frozen=True)
class Passed:
    """One request that was let through. Seconds of the machine's monotonic clock, tokens that it used."""

    key: int
    at: float
    ended: float
    input_tokens: int
    output_tokens: int

    def cost(self, limit: Limit) -> int:
        return {
            "inputTokens": self.input_tokens,
            "outputTokens": self.output_tokens,
            "totalTokens": self.input_tokens + self.output_tokens,
        }.get(limit.dimension, 1)


class Worker:
    """One gateway's counting, and the requests that come to it."""

    def __init__(self, number: int, port: int, *, keys: int, answer: float) -> None:
        self.sharing = Sharing(f"w{number}-{os.getpid()}")
        self.leases = Leases(RedisAddress("127.0.0.1", port), self.sharing, LeaseTimes(answer=answer))
        self.estimates = TokenEstimates()
        self.draw = random.Random(number)  # noqa: S311 - a draw that repeats
        self.loop = asyncio.get_running_loop()
        self.passed: list[Passed] = []
        self.asked = self.waited = 0
        self.accounts = [self.make_account(key) for key in range(keys)]

    def make_account(self, key: int) -> Account:
        terms = Terms(limits=tuple(AppliedLimit(f"a/p|pk_{key}", limit) for limit in limits_of(key)))
        return self.sharing.limiter.account(f"pk_{key}", MODEL, tenant="a", terms=terms, now=time.monotonic())

    async def until_ready(self, workers: int) -> None:
        """Redis is there, and all the others are."""
        async with asyncio.timeout(READY_SECONDS):
            while self.sharing.backend.away or self.sharing.backend.gateways < workers:
                await asyncio.sleep(0.01)

    async def drive(self, begin: float, seconds: float, rate: float) -> None:
        """Requests of each key at random times, `rate` a second."""
        await asyncio.sleep(begin - time.monotonic())
        due = [(begin + self.draw.expovariate(rate), key) for key in range(len(self.accounts))]
        heapq.heapify(due)
        while (now := time.monotonic()) < begin + seconds:
            while due[0][0] <= now:
                at, key = due[0]
                heapq.heapreplace(due, (at + self.draw.expovariate(rate), key))
                self.ask(key)
            await asyncio.sleep(max(0.0005, due[0][0] - now))
        await asyncio.sleep(4 * SERVICE_SECONDS)

    def ask(self, key: int) -> None:
        """One request, as the gateway's data path will do it."""
        account, now = self.accounts[key], time.monotonic()
        body = 4 * int(self.draw.uniform(0.5, 1.5) * INPUT_TOKENS)
        inputs = self.estimates.input_tokens(MODEL, body)
        outputs = self.estimates.output_tokens(f"pk_{key}", MODEL, 10 * OUTPUT_TOKENS)
        self.asked += 1
        outcome = self.sharing.limiter.admit(account, inputs, outputs, now)
        if outcome is not None:
            self.decided(key, body, outcome)
            return
        self.waited += 1

        def decide(outcome: Reservation | Denial) -> None:
            self.decided(key, body, outcome)

        self.leases.wait(Waiting(account, inputs, outputs, since=now, decide=decide))

    def decided(self, key: int, body: int, outcome: Reservation | Denial) -> None:
        if isinstance(outcome, Denial):
            return
        inputs = int(body / 4 * self.draw.uniform(0.9, 1.1))
        outputs = min(10 * OUTPUT_TOKENS, int(self.draw.expovariate(1 / OUTPUT_TOKENS)))
        began, held = time.monotonic(), self.draw.uniform(0.5, 1.5) * SERVICE_SECONDS

        def end() -> None:
            now = time.monotonic()
            self.sharing.limiter.settle(outcome, inputs, outputs, now)
            self.estimates.learn_input(MODEL, body, inputs)
            self.estimates.learn_output(f"pk_{key}", MODEL, outputs)
            self.passed.append(Passed(key, began, now, inputs, outputs))

        self.loop.call_later(held, end)


async def work(arguments: argparse.Namespace) -> None:
    worker = Worker(arguments.worker, arguments.port, keys=arguments.keys, answer=arguments.answer)
    worker.leases.start()
    rate = TIMES_LIMIT * REQUESTS_PER_SECOND / arguments.workers
    await worker.until_ready(arguments.workers)
    print("ready", flush=True)
    begin = float(await asyncio.to_thread(sys.stdin.readline))
    await worker.drive(begin, arguments.seconds, rate)
    used = resource.getrusage(resource.RUSAGE_SELF)
    absences = worker.sharing.backend.absences
    await worker.leases.stop()
    found = {
        "asked": worker.asked,
        "waited": worker.waited,
        "absences": absences,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "passed": [[p.key, p.at, p.ended, p.input_tokens, p.output_tokens] for p in worker.passed],
    }
    print(json.dumps(found))


@dataclass(frozen=True)
class Run:
    """What all workers saw together."""

    passed: Sequence[Passed]
    asked: int
    waited: int
    absences: int
    """Times that a worker found Redis away."""
    cpu_seconds: float


async def run(
    folder: Path,
    *,
    workers: int = WORKERS,
    keys: int = KEYS,
    seconds: float = SECONDS,
    answer: float = ANSWER_SECONDS,
    kill: bool = False,
) -> Run:
    """All workers against one Redis, which is killed and revived where asked."""
    redis = RealRedis(folder)
    await redis.start()
    flags = [f"--port={redis.address.port}", f"--seconds={seconds}"]
    flags += [f"--keys={keys}", f"--workers={workers}", f"--answer={answer}"]
    children = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            __file__,
            f"--worker={number}",
            *flags,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            limit=1 << 26,
        )
        for number in range(workers)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert (await child.stdout.readline()).strip() == b"ready", "a worker found no Redis"
        begin = time.monotonic() + 0.5
        answers = asyncio.gather(*[child.communicate(b"%f\n" % begin) for child in children])
        if kill:
            await asyncio.sleep(begin + seconds / 3 - time.monotonic())
            await redis.kill()
            await asyncio.sleep(seconds / 3)
            await redis.start()
        found = [json.loads(out) for out, _ in await asyncio.wait_for(answers, seconds + 60)]
    finally:
        for child in children:
            if child.returncode is None:
                child.kill()
        await redis.kill()
    passed = [Passed(*each) for one in found for each in one["passed"]]
    return Run(
        passed=sorted(passed, key=lambda each: each.at),
        asked=sum(one["asked"] for one in found),
        waited=sum(one["waited"] for one in found),
        absences=sum(one["absences"] for one in found),
        cpu_seconds=sum(one["cpu_seconds"] for one in found),
    )


def overshoots(passed: Iterable[Passed], limit: Limit, seconds: float) -> list[float]:
    """Of each key that has the limit, what was used beyond it, as a share of what it admits in so many seconds.

    Rates: what drained is forgotten, what is above the rim at any time is too much. Hours: the whole sum.
    """
    of_key: dict[int, list[Passed]] = {}
    for each in passed:
        if limit in limits_of(each.key):
            of_key.setdefault(each.key, []).append(each)
    return [_most(each, limit) / _admitted(limit, seconds) for each in of_key.values()]


def _admitted(limit: Limit, seconds: float) -> float:
    bucket = 0 < limit.window_seconds <= MINUTE
    return limit.amount * (1 + seconds / limit.window_seconds) if bucket else limit.amount


def _most(passed: Sequence[Passed], limit: Limit) -> float:
    """The most above the limit at any time; negative where it was never reached."""
    if limit.dimension == "concurrency":
        changes = sorted([(each.at, 1) for each in passed] + [(each.ended, -1) for each in passed])
        under_way = peak = 0
        for _, change in changes:
            under_way += change
            peak = max(peak, under_way)
        return peak - limit.amount
    drains = limit.amount / limit.window_seconds if limit.window_seconds <= MINUTE else 0.0
    level = most = last = 0.0
    for each in passed:
        level = max(0.0, level - drains * (each.at - last)) + each.cost(limit)
        most, last = max(most, level), each.at
    return most - limit.amount


def worst(run: Run, seconds: float) -> dict[str, float]:
    """Of each limit the worst key's, in percent."""
    return {
        f"{limit.dimension}_per_{limit.window_seconds}_s": round(
            100 * max(overshoots(run.passed, limit, seconds)), 3
        )
        for limit in LIMITS
    }


async def measure(*, workers: int, keys: int, seconds: float) -> Record:
    with tempfile.TemporaryDirectory() as folder:
        steady = await run(Path(folder), workers=workers, keys=keys, seconds=seconds)
        killed = await run(Path(folder), workers=workers, keys=keys, seconds=seconds, kill=True)
    by_limit = worst(steady, seconds)
    return Record(
        metric="quota_overshoot_percent",
        value=max(0.0, *by_limit.values()),
        unit="%",
        goal="<=1",
        peers={
            "worst_key_of_each_limit": by_limit,
            "with_redis_killed_and_revived": worst(killed, seconds),
            "seconds_that_redis_gets_to_answer": ANSWER_SECONDS,
            "times_redis_was_away": {"steady": steady.absences, "killed": killed.absences},
            "requests_asked": steady.asked,
            "requests_passed": len(steady.passed),
            "waited_for_redis_percent": round(100 * steady.waited / steady.asked, 1),
            "cpu_microseconds_per_request": round(steady.cpu_seconds / steady.asked * 1e6, 1),
        },
        versions=installed_versions("uvloop"),
        command=this_command(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--keys", type=int, default=KEYS)
    parser.add_argument("--workers", type=int, default=WORKERS)
    for name, kind in (("worker", int), ("port", int), ("answer", float)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        uvloop.run(work(arguments))
    else:
        record = measure(workers=arguments.workers, keys=arguments.keys, seconds=arguments.seconds)
        write_records("quota_overshoot", [uvloop.run(record)])


if __name__ == "__main__":
    main()
