"""Which replica each strategy prefers, and what is learnt of replicas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.traffic import Strategy
from plinth.gateway.routing.affinity import Affinity
from plinth.gateway.routing.choice import Standing
from plinth.gateway.routing.pace import Pace, settle
from plinth.gateway.routing.placement import Prompt
from plinth.gateway.routing.ring import KEY_BLOCKS, LOAD_BOUND, PrefixRing
from plinth.gateway.routing.scores import expected_ttft, kv_barrier, predicted_latency
from plinth.tests.gateway.routing.builders import make_prompt, make_router, make_standing


def choose(strategy: Strategy, standings: list[Standing], prompt: Prompt) -> str:
    placement = make_router(standings, strategy).place(standings, prompt)
    assert placement is not None
    return placement.standing.slot


def test_expected_ttft_is_the_work_ahead_by_the_rate_and_what_others_will_wait() -> None:
    standing = make_standing(
        pending_tokens=3000, pending_tokens_elsewhere=1000, in_flight=3, in_flight_elsewhere=2
    )
    # (3,000 + 1,000 + 2 x 500) / 10,000 + 5 x 2 ms
    assert expected_ttft(standing, 500) == pytest.approx(0.51)


def test_a_full_kv_cache_is_avoided_the_more_the_fuller_it_is() -> None:
    standings = [
        make_standing(kv_tokens=1000, kept_tokens=kept, in_flight=1) for kept in (0, 500, 900, 950, 5000)
    ]
    assert [kv_barrier(item) for item in standings] == pytest.approx([0, 0.15, 1.35, 2.85, 2.85])
    assert kv_barrier(make_standing(kept_tokens=900, in_flight=1)) == 0


def test_requests_of_other_workers_fill_the_kv_cache_as_ones_own_do() -> None:
    shared = make_standing(kv_tokens=1000, kept_tokens=225, in_flight=2, in_flight_elsewhere=6)
    assert kv_barrier(shared) == pytest.approx(1.35)


@pytest.mark.parametrize("strategy", [Strategy.EXPECTED_TTFT, Strategy.LEAST_LOAD, Strategy.LOWEST_LATENCY])
def test_a_long_answer_under_way_keeps_prompts_away_from_a_small_cache(strategy: Strategy) -> None:
    standings = [make_standing("a", kv_tokens=10_000), make_standing("b", kv_tokens=10_000)]
    router = make_router(standings, strategy)
    placements = []
    for wanted in "ab":
        placement = router.place(standings, make_prompt(10, output_tokens=8000))
        assert placement is not None
        assert placement.standing.slot == wanted
        router.take(placement, 0.0)
        router.answered(placement, 0.1)
        placements.append(placement)
    assert all(item.kv_seconds > 0.5 for item in standings)
    router.ended(placements[1])
    free = router.place(standings, make_prompt(10))
    assert free is not None
    assert (free.standing.slot, free.standing.kv_seconds) == ("b", 0.0)


def test_least_load_does_not_look_at_caches() -> None:
    holds, holds_not = make_standing("holds", pending_tokens=1), make_standing("holds not")
    router = make_router([holds, holds_not], Strategy.LEAST_LOAD)
    router.heard(holds, (1, 2, 3))
    placement = router.place([holds, holds_not], make_prompt(1000, blocks=(1, 2, 3)))
    assert placement is not None
    assert placement.standing is holds_not


def test_lowest_latency_minds_how_fast_a_replica_writes() -> None:
    reads_fast, writes_fast = make_standing("a", rate=20_000.0), make_standing("b")
    reads_fast.pace.saw_end(0.05)
    writes_fast.pace.saw_end(0.02)
    standings = [reads_fast, writes_fast]
    assert choose(Strategy.LOWEST_LATENCY, standings, make_prompt(4000, output_tokens=500)) == "b"
    assert choose(Strategy.LOWEST_LATENCY, standings, make_prompt(4000, output_tokens=1)) == "a"
    assert choose(Strategy.EXPECTED_TTFT, standings, make_prompt(4000, output_tokens=500)) == "a"
    assert predicted_latency(writes_fast, make_prompt(output_tokens=100), 1) > 2


def test_bulk_leaves_the_fastest_replicas_to_others_while_a_slower_one_has_room() -> None:
    fast, slow = make_standing("fast", rate=20_000.0), make_standing("slow", rate=4000.0, concurrency=1)
    choices = [
        choose(Strategy.FASTEST_FIRST, [fast, slow], make_prompt(band=band))
        for band in ("bulk", "default", "system")
    ]
    assert choices == ["slow", "fast", "fast"]
    slow.in_flight = 1
    assert choose(Strategy.FASTEST_FIRST, [fast, slow], make_prompt(band="bulk")) == "fast"


def test_bulk_uses_all_replicas_of_a_pool_whose_replicas_are_alike() -> None:
    one, other = make_standing("a", pending_tokens=900), make_standing("b", rate=9000.0)
    assert choose(Strategy.FASTEST_FIRST, [one, other], make_prompt(band="bulk")) == "b"
    other.pending_tokens = 5000
    assert choose(Strategy.FASTEST_FIRST, [one, other], make_prompt(band="bulk")) == "a"


def test_prompts_with_a_common_start_meet_whatever_follows() -> None:
    standings = [make_standing(f"r{n}") for n in range(8)]
    router = make_router(standings, Strategy.PREFIX_HASH)
    start = list(range(KEY_BLOCKS))
    met = set()
    for number in range(20):
        placement = router.place(standings, make_prompt(1000, [*start, 1000 + number]))
        assert placement is not None
        met.add(placement.standing.slot)
    assert len(met) == 1


def test_a_hot_prefix_overflows_to_the_next_replica_on_the_ring() -> None:
    standings = [make_standing(f"r{n}", concurrency=1000) for n in range(4)]
    router = make_router(standings, Strategy.PREFIX_HASH)
    for _ in range(100):
        placement = router.place(standings, make_prompt(1000, [1, 2, 3, 4]))
        assert placement is not None
        router.take(placement, 0.0)
    assert max(item.in_flight for item in standings) <= LOAD_BOUND * 100 / 4 + 1


@given(st.integers(2, 12), st.data())
def test_a_replica_that_leaves_the_ring_moves_only_its_own_prompts(count: int, data: st.DataObject) -> None:
    standings = [make_standing(f"r{n}") for n in range(count)]
    gone = data.draw(st.sampled_from(standings))
    left = [item for item in standings if item is not gone]
    before, after = PrefixRing([item.slot for item in standings]), PrefixRing([item.slot for item in left])
    for block in data.draw(st.lists(st.integers(0, 2**32 - 1), max_size=20)):
        chosen = before.choose(standings, [block])
        if chosen is not gone:
            assert after.choose(left, [block]) is chosen


def test_prefixes_spread_evenly_over_the_ring() -> None:
    standings = [make_standing(f"r{n}") for n in range(8)]
    ring = PrefixRing([item.slot for item in standings])
    counts = dict.fromkeys((item.slot for item in standings), 0)
    for block in range(4000):
        counts[ring.choose(standings, [block]).slot] += 1
    assert min(counts.values()) > 350
    assert max(counts.values()) < 700


def test_a_prompt_shorter_than_a_block_goes_by_load_on_the_ring() -> None:
    standings = [make_standing("a", pending_tokens=10), make_standing("b")]
    assert choose(Strategy.PREFIX_HASH, standings, make_prompt(20)) == "b"


def test_a_session_stays_until_another_replica_is_seconds_sooner() -> None:
    standings = [make_standing("a", pending_tokens=40_000), make_standing("b")]
    router = make_router(standings)
    talk = make_prompt(100, session="talk")
    router.affinity.remember("a", talk)
    stays = router.place(standings, talk)
    assert stays is not None
    assert stays.standing.slot == "a"  # 4 s behind
    standings[0].pending_tokens = 60_000  # 6 s
    moves = router.place(standings, talk)
    assert moves is not None
    assert moves.standing.slot == "b"
    router.take(moves, 0.0)
    standings[0].pending_tokens = 0
    settled = router.place(standings, talk)
    assert settled is not None
    assert settled.standing.slot == "b"


def test_a_session_whose_replica_is_gone_is_free_to_go_anywhere() -> None:
    affinity = Affinity()
    prompt = make_prompt(session="talk")
    affinity.remember("gone", prompt)
    assert affinity.penalty(make_standing("a"), prompt) == affinity.penalty(make_standing("b"), prompt)


def test_an_adapter_is_preferred_where_it_is_loaded() -> None:
    standings = [make_standing("a"), make_standing("b", pending_tokens=4000)]
    router = make_router(standings)
    prompt = make_prompt(100, adapter="legal")
    router.affinity.remember("b", prompt)
    found = router.place(standings, prompt)
    assert found is not None
    assert found.standing.slot == "b"
    router.leave(standings[1])
    router.join(standings[1])
    found = router.place(standings, prompt)
    assert found is not None
    assert found.standing.slot == "a"


def test_sessions_and_adapters_remembered_are_bounded() -> None:
    affinity = Affinity(most_sessions=2, most_adapters=1)
    for name in ("one", "two", "three"):
        affinity.remember("b", make_prompt(session=name, adapter=name))
    here = make_standing("a")
    assert [affinity.penalty(here, make_prompt(session=name)) for name in ("one", "two", "three")] == [
        0,
        5,
        5,
    ]
    there = make_standing("b")
    assert [affinity.penalty(there, make_prompt(adapter=name)) for name in ("two", "three")] == [0.5, 0]


@given(st.floats(200, 50_000), st.lists(st.integers(500, 50_000), min_size=60, max_size=80))
def test_a_replicas_rate_is_learnt_from_how_long_prompts_took(rate: float, works: list[int]) -> None:
    pace = Pace()
    for work in works:
        pace.saw_first_byte(work=work, in_flight=0, seconds=work / rate)
    assert pace.measured() == pytest.approx(rate, rel=0.25)


def test_answers_that_come_at_once_say_nothing_of_reading() -> None:
    pace = Pace(5000)
    for _ in range(100):
        pace.saw_first_byte(work=20, in_flight=0, seconds=0.03)
    assert pace.measured() == 5000
    assert pace.answers == 100
    for _ in range(100):
        pace.saw_first_byte(work=100, in_flight=0, seconds=1.0)  # a CPU
    assert 95 < pace.measured() < 300


def test_time_spent_beside_others_decoding_is_not_taken_for_slow_reading() -> None:
    pace = Pace(10_000)
    for _ in range(200):
        pace.saw_first_byte(work=1000, in_flight=50, seconds=0.1 + 50 * 0.002)
    assert pace.measured() == pytest.approx(10_000, rel=0.01)
    pace.saw_first_byte(work=1000, in_flight=1000, seconds=0.1)
    assert pace.measured() > 0


def test_failures_in_a_row_end_with_an_answer_that_ends_well() -> None:
    pace = Pace()
    for expected in (1, 2):
        pace.saw_first_byte(work=10, in_flight=0, seconds=0.1)
        pace.saw_failure()  # broken off
        assert pace.failures == expected
    pace.saw_end(None)
    assert (pace.failures, pace.tpot) == (0, 0.0)


def settle_rates(*rates: float, answers: int = 100) -> list[float]:
    paces = [Pace(rate) for rate in rates]
    for pace in paces:
        pace.answers = answers
    settle(paces)
    return [pace.rate for pace in paces]


def test_equal_replicas_are_held_to_be_equally_fast_and_a_different_one_is_not() -> None:
    assert settle_rates(9000, 10_000, 11_000, 12_000, 2000) == [10_000] * 4 + [2000]
    assert settle_rates(9000, 10_000, 11_000, 30_000) == [10_500] * 3 + [30_000]
    assert settle_rates(5000) == [5000]


def test_a_replica_of_few_answers_is_held_to_be_as_fast_as_its_kind() -> None:
    assert settle_rates(10_000, 10_000, 100, answers=15) == [10_000] * 3
    assert settle_rates(8000, 9000, answers=0) == [8000, 9000]
