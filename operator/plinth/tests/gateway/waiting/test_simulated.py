"""What the rules come to: whole simulated minutes of traffic through the production queue."""

from __future__ import annotations

from itertools import chain

import pytest

from plinth.domain.access import BANDS
from plinth.tests.gateway.waiting.learning import (
    ENGINES,
    SMALLER,
    is_right,
    learnt_limit,
    limit_after_shrinking,
)
from plinth.tests.gateway.waiting.simulation import Engine, Request, Simulation
from plinth.tests.gateway.waiting.traffic import make_traffic, percentile


def normal_keys(seed: int, rate: float, seconds: float) -> list[Request]:
    return list(
        chain.from_iterable(
            make_traffic(f"key-{number}", rate=rate, seconds=seconds, seed=seed) for number in range(20)
        )
    )


def test_a_key_at_fifty_times_the_load_hardly_slows_the_others() -> None:
    """Told once the replicas' limits are learnt; until then the others wait at times for a place that was none."""
    seen = {}
    for busy in (False, True):
        requests = normal_keys(1, 1.0, 180.0)
        heavy = list(make_traffic("heavy", rate=50.0, seconds=180.0, seed=1)) if busy else []
        simulation = Simulation((Engine(),) * 8)
        simulation.run([*requests, *heavy], until=180.0)
        settled = [item.ttft for item in requests if item.first_token is not None and item.at > 60.0]
        seen[busy] = percentile(settled, 0.99)
    assert simulation.most_waiting > 1000, "it must have been too much"
    assert seen[True] <= 1.2 * seen[False]


def test_a_burst_of_three_times_the_capacity_waits_and_none_is_refused() -> None:
    """Two replicas do some 15 requests a second; 45 come, for a minute, on top of 40 users."""
    users = list(
        chain.from_iterable(
            make_traffic(f"user-{number}", rate=0.1, seconds=120, seed=1, band="interactive")
            for number in range(40)
        )
    )
    burst = list(
        chain.from_iterable(
            make_traffic(f"{band}-burst", rate=15, seconds=60, start=30, seed=1, band=band)
            for band in BANDS[1:]
        )
    )
    simulation = Simulation((Engine(),) * 2)
    simulation.run([*users, *burst])
    requests = users + burst
    assert simulation.most_waiting > 1000
    assert all(item.rejection is None and item.ended is not None for item in requests)
    waits = [sum(item.waited for item in burst if item.band == band) for band in BANDS[1:]]
    assert waits[0] * 4 < waits[1]
    assert waits[1] * 1.3 < waits[2]
    assert percentile([item.waited for item in users], 0.99) < 3.0


def test_who_is_refused_for_a_deadline_would_have_missed_it() -> None:
    """Without refusals hardly more requests are served in time: those refused were lost anyway."""
    served = {}
    for patience in (25.0, 1e9):
        simulation = Simulation((Engine(),) * 2)
        requests = list(make_traffic("key", rate=22, seconds=120, seed=1, patience=patience))
        simulation.run(requests)
        served[patience] = sum(item.dispatched is not None and item.waited <= 25.0 for item in requests)
        if patience == 25.0:
            rejected = [item for item in requests if item.rejection is not None]
            at_once = sum(item.rejected_at == item.at for item in rejected)
            assert at_once > 0.5 * len(rejected) > 0
            assert max(item.waited for item in requests if item.dispatched is not None) > 20.0
    assert served[25.0] > served[1e9]


def test_a_sleeping_model_serves_all_who_waited_when_it_is_up() -> None:
    simulation = Simulation(())

    def rise() -> None:
        simulation.add("first", Engine())
        simulation.dispatch()

    simulation.at(40.0, rise)
    requests = list(make_traffic("key", rate=10, seconds=20, seed=1))
    simulation.run(requests)
    assert simulation.wake_ups == 1
    assert all(item.ended is not None for item in requests)
    assert min(item.waited for item in requests) > 20


SEEDS = 2
"""Of each simulation here; `e2e/benchmarks/queue_fairness.py` runs 40."""


@pytest.mark.parametrize("name", ENGINES)
def test_a_replica_gets_as_many_as_it_runs_whatever_was_planned(name: str) -> None:
    engine = ENGINES[name]
    found = [learnt_limit(engine, seed) for seed in range(1, SEEDS + 1)]
    assert all(is_right(share, engine.streams) for share in found), found


def test_a_replica_that_holds_less_than_before_is_found_out() -> None:
    found = [limit_after_shrinking(seed) for seed in range(1, SEEDS + 1)]
    assert all(is_right(share, SMALLER.streams) for share in found), found


def test_a_replica_that_only_reads_prompts_keeps_few_of_them() -> None:
    """Answers of one token: places beyond those that keep it reading would only queue inside."""
    simulation = Simulation((Engine(planned=64, streams=64),))
    requests = [Request(number / 20, f"key-{number % 10}", 2000, 1, patience=1e9) for number in range(4000)]
    simulation.run(requests, until=200)
    assert simulation.replicas["replica-0"].saturation.limit < 12
    assert sum(item.ended is not None for item in requests) >= 0.98 * 7.5 * 200  # 15,000 tokens a second
