"""One model's requests from the choice of a replica to their end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.traffic import Strategy
from plinth.gateway.routing.choice import Standing, with_room
from plinth.gateway.routing.pace import FIRST_RATE
from plinth.gateway.routing.placement import Placement
from plinth.gateway.routing.router import Router
from plinth.tests.gateway.routing.builders import make_prompt, make_router, make_standing


def test_a_prompt_goes_where_its_start_was_read_before() -> None:
    standings = [make_standing(slot) for slot in "abc"]
    router = make_router(standings)
    prompt = make_prompt(1000, range(10), block_tokens=100)
    first = router.place(standings, prompt)
    assert first is not None
    assert (first.standing.slot, first.uncached) == ("a", 1000)
    router.take(first, 0.0)
    longer = make_prompt(1200, range(12), block_tokens=100)
    second = router.place(standings, longer)
    assert second is not None
    # 1,000 tokens are still being read at `a`; elsewhere all 1,200 would have to be, and twice they count.
    assert (second.standing.slot, second.uncached) == ("a", 200)


def test_a_cache_that_is_too_busy_is_passed_over() -> None:
    standings = [make_standing(slot) for slot in "ab"]
    router = make_router(standings)
    prompt = make_prompt(1000, range(10), block_tokens=100)
    first = router.place(standings, prompt)
    assert first is not None
    router.take(first, 0.0)
    standings[0].pending_tokens += 5000
    second = router.place(standings, prompt)
    assert second is not None
    assert second.standing.slot == "b"


def test_news_of_another_worker_count_like_what_was_sent_here() -> None:
    standings = [make_standing(slot) for slot in "ab"]
    router = make_router(standings)
    router.heard(standings[1], range(10))
    placement = router.place(standings, make_prompt(1000, range(10), block_tokens=100))
    assert placement is not None
    assert (placement.standing.slot, placement.uncached) == ("b", 1)


def test_news_of_a_replica_that_has_left_are_ignored() -> None:
    standings = [make_standing(slot) for slot in "ab"]
    router = make_router(standings)
    router.leave(standings[0])
    router.heard(standings[0], range(10))
    assert router.place(standings[1:], make_prompt(1000, range(10))) is not None


def test_a_replica_that_starts_anew_is_believed_to_hold_nothing() -> None:
    standings = [make_standing(slot) for slot in "ab"]
    router = make_router(standings)
    router.heard(standings[1], range(10))
    router.leave(standings[1])
    router.join(standings[1])
    placement = router.place(standings, make_prompt(1000, range(10)))
    assert placement is not None
    assert placement.standing.slot == "a"


def test_a_new_replica_is_supposed_to_be_as_fast_as_those_of_its_kind() -> None:
    old = [make_standing(f"old-{n}", kind="L4", rate=rate) for n, rate in enumerate((900.0, 1000.0, 1200.0))]
    fast = make_standing("fast", kind="H200", rate=20_000.0)
    router = make_router([*old, fast])
    for item in [*old, fast]:
        item.pace.answers = 1
    for kind, rate in (("L4", 1000.0), ("H200", 20_000.0), ("unknown", 1100.0)):
        newcomer = Standing(slot=f"new-{kind}", concurrency=1, kind=kind)
        router.join(newcomer)
        assert newcomer.pace.rate == rate
    alone = Standing(slot="x", concurrency=1)
    Router().join(alone)
    assert alone.pace.rate == FIRST_RATE


def test_no_room_anywhere_means_that_the_request_is_held() -> None:
    standings = [make_standing("a", concurrency=1, in_flight=1), make_standing("b", available=False)]
    router = make_router(standings)
    assert router.place(standings, make_prompt()) is None


def test_requests_of_other_workers_fill_a_replica_too() -> None:
    full = make_standing("a", concurrency=4, in_flight=1, in_flight_elsewhere=3)
    assert with_room([full]) == []
    full.in_flight_elsewhere = 2
    assert with_room([full]) == [full]


def test_an_ejected_replica_is_used_only_when_there_is_no_other() -> None:
    good, bad = make_standing("a", concurrency=1), make_standing("b", ejected=True)
    assert with_room([good, bad]) == [good]
    good.in_flight = 1
    assert with_room([good, bad]) == []
    good.available = False
    assert with_room([good, bad]) == [bad]


@pytest.mark.parametrize("strategy", Strategy)
def test_a_replica_at_which_the_request_failed_is_the_last_resort(strategy: Strategy) -> None:
    standings = [make_standing(slot) for slot in "abc"]
    router = make_router(standings, strategy)
    prompt = make_prompt(1000, range(10), block_tokens=100)
    for avoid, left in (("ab", "c"), ("bc", "a"), ("ac", "b")):
        placement = router.place(standings, prompt, avoid=set(avoid))
        assert placement is not None
        assert placement.standing.slot == left
    assert router.place(standings, prompt, avoid={"a", "b", "c"}) is not None


@pytest.mark.parametrize("strategy", Strategy)
def test_equal_requests_spread_over_equal_replicas(strategy: Strategy) -> None:
    standings = [make_standing(slot, concurrency=100) for slot in "abcd"]
    router = make_router(standings, strategy)
    for number in range(40):
        placement = router.place(standings, make_prompt(500, [number], block_tokens=100))
        assert placement is not None
        router.take(placement, 0.0)
    most = max(item.in_flight for item in standings)
    assert most <= 13  # 1.25 times the mean where loads are bounded by that


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["send", "answer", "end", "fail"]), st.integers(0, 30), st.integers(1, 5000)),
    max_size=80,
)


@given(OPERATIONS)
def test_whatever_happens_every_count_returns_to_zero(operations: list[tuple[str, int, int]]) -> None:
    standings = [make_standing(slot, concurrency=4) for slot in "abc"]
    router = make_router(standings)
    under_way: list[Placement] = []
    for now, (what, which, tokens) in enumerate(operations):
        if what == "send":
            prompt = make_prompt(tokens, range(which), block_tokens=100, output_tokens=which)
            placement = router.place(standings, prompt)
            assert (placement is None) == all(item.in_flight == 4 for item in standings)
            if placement is not None:
                router.take(placement, float(now))
                under_way.append(placement)
        elif under_way:
            placement = under_way[which % len(under_way)]
            if what == "answer":
                router.answered(placement, float(now))
            else:
                under_way.remove(placement)
                router.ended(placement, failed=what == "fail")
        assert sum(item.in_flight for item in standings) == len(under_way)
        assert all(item.pending_tokens >= 0 for item in standings)
    for placement in under_way:
        router.ended(placement)
    assert [(item.in_flight, item.pending_tokens, item.kept_tokens) for item in standings] == [(0, 0, 0)] * 3


def test_counts_go_through_the_shared_load_where_there_is_one() -> None:
    class Board:
        def __init__(self) -> None:
            self.added: list[tuple[int, int]] = []

        def add(self, requests: int, tokens: int) -> None:
            self.added.append((requests, tokens))

    board = Board()
    standing = make_standing(share=board)
    router = make_router([standing])
    for answers in (True, False):
        placement = router.place([standing], make_prompt(700))
        assert placement is not None
        router.take(placement, 0.0)
        if answers:
            router.answered(placement, 0.1)
        router.ended(placement)
    assert board.added == [(1, 700), (0, -700), (-1, 0), (1, 700), (-1, -700)]
    assert standing.in_flight == 0


def test_a_review_settles_rates_by_kind_and_takes_out_who_is_out_of_line() -> None:
    rates = {"a": 10_000.0, "b": 11_000.0, "c": 2000.0, "d": 700.0}
    standings = [
        make_standing(slot, rate=rate, kind="old" if slot == "d" else "") for slot, rate in rates.items()
    ]
    router = make_router(standings)
    for item in standings:
        item.pace.answers = 100
    told = router.review(standings, 0.0)
    assert [each.slot for each in told] == ["c"]
    assert [item.pace.rate for item in standings] == [10_000, 10_000, 2000, 700]
    placement = router.place(standings, make_prompt())
    assert placement is not None
    assert placement.standing.slot == "a"


def test_what_waits_inside_a_replica_that_is_being_tried_does_not_count_as_slow_reading() -> None:
    standing = make_standing(trying=4)
    router = make_router([standing])
    tried = router.place([standing], make_prompt(1000))
    assert tried is not None
    router.take(tried, 0.0)
    router.answered(tried, 10.0)
    assert standing.pace.answers == 0
    standing.trying = 0
    known = router.place([standing], make_prompt(1000))
    assert known is not None
    router.take(known, 20.0)
    router.answered(known, 21.0)
    assert standing.pace.answers == 1
