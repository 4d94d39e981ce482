"""Which pool's offer is taken, and when what runs moves for one."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.offers import Offer, rank
from plinth.domain.sizing.goals import Missed, Promise


def promise(price: int = 1_000_000, worst: int = 1000, users: int = 8) -> Promise:
    missed = (Missed(permille=worst, sentence=f"TTFT p95 {worst} ms, 1000 asked"),)
    return Promise(misses=missed if worst > 1000 else (), users=users, price=price)


def offer(
    pool: str = "a",
    *,
    price: int = 1_000_000,
    worst: int = 1000,
    accelerators: int = 1,
    known: bool = True,
    closing: bool = False,
    home: bool = False,
    room: bool = True,
) -> Offer:
    return Offer(
        pool=pool,
        shape="TP1",
        accelerators=accelerators,
        promise=promise(price, worst) if known else None,
        closing=closing,
        home=home,
        room=room,
    )


def order(*offers: Offer, trusted: bool = True) -> list[str]:
    return [each.pool for each in rank(offers, trusted=trusted).offers]


def test_the_least_money_for_what_is_delivered_is_best_among_those_that_meet_the_goals() -> None:
    assert order(offer("a", price=300), offer("b", price=100), offer("c", price=200)) == ["b", "c", "a"]


def test_goals_come_before_money_and_what_nobody_can_tell_between() -> None:
    missing, unknown, dear = offer("a", price=1, worst=1500), offer("b", known=False), offer("c", price=900)
    assert order(missing, unknown, dear) == ["c", "b", "a"]


def test_among_those_that_miss_the_goals_money_counts_times_the_square_of_the_miss() -> None:
    assert order(offer("a", price=100, worst=4000), offer("b", price=300, worst=2000)) == ["b", "a"]
    assert order(offer("a", price=100, worst=3000), offer("b", price=300, worst=2000)) == ["a", "b"]


def test_without_prices_fewer_accelerators_and_then_the_name_decide() -> None:
    first, second, third = (offer(each, price=0, accelerators=2) for each in "abc")
    assert order(third, first, offer("z", price=0), second) == ["z", "a", "b", "c"]


def test_a_pool_that_is_being_deleted_is_the_last() -> None:
    assert order(offer("a", price=1, closing=True), offer("b", worst=9000)) == ["b", "a"]
    assert order(offer("a", closing=True, home=True), offer("b", worst=9000)) == ["b", "a"]


def test_what_runs_stays_for_a_small_gain_and_moves_for_a_large_one() -> None:
    assert order(offer("a", price=129, home=True), offer("b", price=100)) == ["a", "b"]
    assert order(offer("a", price=131, home=True), offer("b", price=100)) == ["b", "a"]


def test_what_runs_moves_for_its_goals_but_not_for_a_tenth() -> None:
    assert order(offer("a", worst=1100, home=True), offer("b")) == ["a", "b"]
    assert order(offer("a", worst=1101, home=True), offer("b", price=9_000_000)) == ["b", "a"]


def test_what_runs_moves_to_nothing_that_misses_its_goals_however_cheap_that_is() -> None:
    assert order(offer("a", price=900, home=True), offer("b", price=1, worst=1050)) == ["a", "b"]


def test_what_ran_otherwise_than_computed_does_not_move_for_money() -> None:
    here, there = offer("a", price=1000, home=True), offer("b", price=100)
    assert order(here, there, trusted=False) == ["a", "b"]
    assert order(offer("a", worst=2000, home=True), there, trusted=False) == ["b", "a"]


def test_what_nobody_can_tell_the_speed_of_moves_nothing() -> None:
    assert order(offer("a", known=False, home=True), offer("b", price=1)) == ["a", "b"]
    assert order(offer("a", worst=9000, home=True), offer("b", known=False)) == ["a", "b"]


def test_a_full_pool_gives_way_to_one_that_meets_the_goals_too_but_to_none_that_misses_them() -> None:
    full = offer("a", price=100, room=False)
    assert order(full, offer("b", price=900)) == ["b", "a"]
    assert order(full, offer("b", worst=2000), offer("c", known=False)) == ["a", "c", "b"]
    assert order(offer("b", room=False), full) == ["a", "b"]


def test_what_runs_waits_where_it_is_until_a_better_pool_has_room() -> None:
    home = offer("a", price=1000, home=True, room=False)
    waiting = rank([home, offer("b", price=100, room=False)], trusted=True)
    assert (waiting.offers[0].pool, waiting.waits) == ("a", True)
    second = rank([home, offer("b", price=100, room=False), offer("c", price=200)], trusted=True)
    assert (second.offers[0].pool, second.waits) == ("c", False)
    content = rank([home, offer("b", price=900, room=False)], trusted=True)
    assert (content.offers[0].pool, content.waits) == ("a", False)


def test_the_ranking_says_why_and_what_the_others_offer() -> None:
    found = rank([offer("b", price=0, worst=1500, room=False), offer("a", price=3_600_000)], trusted=True)
    assert found.sentences == (
        "pool a (the best offer): TP1, 1 for a million tokens",
        "not pool b: TP1, TTFT p95 1500 ms, 1000 asked, full at present",
    )
    stays = rank([offer("b", price=110, home=True), offer("a", price=100)], trusted=True)
    assert stays.sentences[0].startswith("pool b (the model runs there, and no other is clearly better): ")
    waits = rank([offer("b", price=900, home=True), offer("a", price=100, room=False)], trusted=True)
    assert waits.sentences[0].startswith("pool b (the model runs there, until a better one has room): ")
    assert rank([offer()], trusted=True).sentences == ()


@given(
    st.lists(
        st.builds(
            offer,
            pool=st.sampled_from("abcdef"),
            price=st.integers(0, 500),
            worst=st.sampled_from([1000, 1000, 1050, 1500, 4000]),
            known=st.booleans(),
            room=st.booleans(),
            home=st.booleans(),
        ),
        min_size=1,
        unique_by=lambda each: each.pool,
    )
)
def test_who_took_an_offer_stays_there_and_never_comes_back_as_room_comes_and_goes(
    offers: list[Offer],
) -> None:
    taken = rank(offers, trusted=True).offers[0].pool
    there = [replace(each, home=each.pool == taken) for each in offers]
    assert rank(there, trusted=True).offers[0].pool == taken
    been = [taken]
    while True:
        there = [replace(each, home=each.pool == been[-1], room=True) for each in there]
        following = rank(there, trusted=True).offers[0].pool
        if following == been[-1]:
            return
        assert following not in been
        been.append(following)
