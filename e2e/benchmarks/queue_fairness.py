"""What the gateway's queue does for the others while one key, or everybody, asks for too much. Simulated time.

    python e2e/benchmarks/queue_fairness.py

The queue, the limits that it learns and the choice of a replica are the gateway's own code; engines are simulated:
eight replicas of 32 streams that read 15,000 prompt tokens a second, some 60 requests a second together. Beside them
the same traffic through one line, first come, first served, and through limits that are known and not learnt. Then
whether limits are learnt whatever the chance, and what the queue costs: CPU time of one process for each request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import chain
from statistics import mean

from records import Record, installed_versions, this_command, write_records

from plinth.domain.access import BANDS
from plinth.gateway.waiting.queue import WaitingLimits, WaitingQueue
from plinth.gateway.waiting.saturation import Saturation
from plinth.gateway.waiting.ticket import Ticket
from plinth.tests.gateway.waiting.learning import (
    ENGINES,
    SMALLER,
    is_right,
    learnt_limit,
    limit_after_shrinking,
)
from plinth.tests.gateway.waiting.simulation import Engine, Simulation
from plinth.tests.gateway.waiting.traffic import make_traffic, percentile

SEEDS = range(1, 6)
LIMIT_SEEDS = range(1, 41)
REPLICAS = (Engine(),) * 8
KEYS, TIMES, RATE = 20, 50, 1.0
"""Normal keys, how much more the busy one asks for, and a normal key's requests a second."""
SECONDS, SETTLED = 300.0, 60.0
"""Of a run, and when limits are learnt."""
BURST_CAPACITY = 61.0
"""Requests a second that the replicas do, as seen in the runs of the fairness."""
REPEATS, ROUNDS = 7, 20_000


def main() -> None:
    write_records("queue_fairness", [fairness(), burst(), limits(), *costs()])


def fairness() -> Record:
    """The 99th percentile of normal keys' time to first token beside a busy key, against without it."""
    alone = [normal_ttft(seed, busy=False) for seed in SEEDS]
    beside = [normal_ttft(seed, busy=True) for seed in SEEDS]
    one_line = [normal_ttft(seed, busy=True, one_line=True) for seed in SEEDS]
    known = [normal_ttft(seed, busy=True, learn=False) for seed in SEEDS]
    ratios = [_p99(b, since=SETTLED) / _p99(a, since=SETTLED) for a, b in zip(alone, beside, strict=True)]
    whole = [_p99(b) / _p99(a) for a, b in zip(alone, beside, strict=True)]
    return _record(
        "fairness_ttft_p99_ratio",
        mean(ratios),
        unit="ratio",
        goal="<=1.2",
        peers={
            "seeds": ratios,
            "with_the_first_minute": mean(whole),
            "limits_known": mean(
                _p99(b, since=SETTLED) / _p99(a, since=SETTLED) for a, b in zip(alone, known, strict=True)
            ),
            "first_come_first_served": mean(
                _p99(b, since=SETTLED) / _p99(a, since=SETTLED) for a, b in zip(alone, one_line, strict=True)
            ),
            "alone_ttft_p99_seconds": mean(_p99(a, since=SETTLED) for a in alone),
        },
    )


def normal_ttft(
    seed: int, *, busy: bool, one_line: bool = False, learn: bool = True
) -> list[tuple[float, float]]:
    """When each request of a normal key came, and how long its first token took. One line: all have the same key."""
    traffic = [make_traffic(f"key-{number}", rate=RATE, seconds=SECONDS, seed=seed) for number in range(KEYS)]
    requests = list(chain.from_iterable(traffic))
    heavy = list(make_traffic("heavy", rate=RATE * TIMES, seconds=SECONDS, seed=seed)) if busy else []
    if one_line:
        for request in chain(requests, heavy):
            request.key = ""
    simulation = Simulation(REPLICAS)
    if not learn:
        for replica in simulation.replicas.values():
            replica.saturation = _Known(replica.engine.streams, 0.0)
    simulation.run([*requests, *heavy])
    return [(request.at, request.ttft) for request in requests if request.first_token is not None]


class _Known(Saturation):
    """A limit that is right from the start and stays."""

    __slots__ = ()

    def first_token(self, now: float) -> None:
        """Learns nothing."""


def burst() -> Record:
    """40 users, and for a minute three times what the replicas can do, in three bands."""
    rejected, waits = 0, {band: list[float]() for band in BANDS[1:]}
    longest = []
    for seed in SEEDS:
        users = [
            make_traffic(f"user-{number}", rate=0.5, seconds=180, seed=seed, band="interactive")
            for number in range(40)
        ]
        extra = [
            make_traffic(f"{band}-burst", rate=BURST_CAPACITY, seconds=60, start=60, seed=seed, band=band)
            for band in BANDS[1:]
        ]
        requests = list(chain.from_iterable([*users, *extra]))
        simulation = Simulation(REPLICAS, limits=WaitingLimits())
        simulation.run(requests)
        rejected += sum(request.rejection is not None for request in requests)
        longest.append(simulation.most_waiting)
        for request in requests:
            if request.key.endswith("burst") and request.dispatched is not None:
                waits[request.band].append(request.waited)
    return _record(
        "burst_rejected_before_deadline",
        float(rejected),
        unit="requests",
        goal="==0",
        peers={
            "mean_wait_seconds": {band: round(mean(seconds), 2) for band, seconds in waits.items()},
            "most_waiting": longest,
        },
    )


def limits() -> Record:
    """Simulations in which a replica's learnt limit is not what it holds, of 40 seeds for each of nine kinds."""
    found = {
        name: [(learnt_limit(engine, seed), engine.streams) for seed in LIMIT_SEEDS]
        for name, engine in ENGINES.items()
    }
    found["32 streams, then 12"] = [(limit_after_shrinking(seed), SMALLER.streams) for seed in LIMIT_SEEDS]
    wrong = {name: sum(not is_right(*one) for one in seen) for name, seen in found.items()}
    extremes = {
        name: [round(pick(share for share, _ in seen), 2) for pick in (min, max)]
        for name, seen in found.items()
    }
    return _record(
        "queue_limits_wrong",
        float(sum(wrong.values())),
        unit="simulations",
        goal="==0",
        peers={"of_each": len(LIMIT_SEEDS), "wrong": wrong, "limit_to_streams": extremes},
    )


def costs() -> list[Record]:
    """CPU microseconds for each request: on the fast path, through the queue, and of the replica's limit."""
    measured: dict[str, Callable[[int], float]] = {"fast_path": fast_path, "waiting": waiting, "limit": limit}
    return [
        _record(
            f"queue_{name}_microseconds",
            min(repeats),
            unit="µs",
            goal="",
            peers={"repeats": repeats, "per": "request"},
        )
        for name, repeats in (
            (name, [measure(ROUNDS) for _ in range(REPEATS)]) for name, measure in measured.items()
        )
    ]


def fast_path(rounds: int) -> float:
    """A ticket made, passed by and settled; 100 keys."""
    queue: WaitingQueue[None] = WaitingQueue(WaitingLimits())
    keys = [f"pk_{number:09}" for number in range(100)]
    started = time.process_time()
    for number in range(rounds):
        ticket = Ticket(
            None, number=number, arrived=0.0, deadline=1.0, key=keys[number % 100], prompt_tokens=250
        )
        queue.pass_by(ticket)
        queue.settle(ticket, prompt_tokens=250, output_tokens=100, seconds=1.0)
    return (time.process_time() - started) / rounds * 1e6


def waiting(rounds: int) -> float:
    """Through a queue in which a thousand of 100 keys wait all the time."""
    queue: WaitingQueue[None] = WaitingQueue(WaitingLimits())
    keys = [f"pk_{number:09}" for number in range(100)]
    started = 0.0
    for number in range(rounds + 1000):
        if number == 1000:
            started = time.process_time()
        ticket = Ticket(
            None, number=number, arrived=0.0, deadline=9e9, key=keys[number % 100], prompt_tokens=250
        )
        queue.offer(ticket, 0.0, slots=256)
        queue.wake_up_due(0.0)
        if number >= 1000:
            chosen = queue.first(0.0, reserved=False, slots=256)
            assert chosen is not None
            queue.take(chosen)
            queue.settle(chosen, prompt_tokens=250, output_tokens=100, seconds=1.0)
    return (time.process_time() - started) / rounds * 1e6


def limit(rounds: int) -> float:
    """What one streamed request costs the limit of its replica."""
    saturation, now = Saturation(32, 0.0), 0.0
    started = time.process_time()
    for _ in range(rounds):
        now += 0.1
        saturation.dispatched(now, streamed=True)
        saturation.first_token(now + 0.05)
        saturation.ended(now + 0.09, answered=True, tpot=0.02)
    return (time.process_time() - started) / rounds * 1e6


def _p99(seen: Sequence[tuple[float, float]], *, since: float = 0.0) -> float:
    return percentile([ttft for at, ttft in seen if since <= at <= SECONDS], 0.99)


def _record(metric: str, value: float, *, unit: str, goal: str, peers: dict[str, object]) -> Record:
    return Record(
        metric=metric,
        value=value,
        unit=unit,
        goal=goal,
        peers=peers,
        versions=installed_versions(),
        command=this_command(),
    )


if __name__ == "__main__":
    main()
