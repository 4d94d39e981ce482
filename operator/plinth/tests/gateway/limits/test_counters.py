"""What each kind of counter lets through, and when."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.access import Limit
from plinth.gateway.limits.counters import PARTS, Bucket, Counter, Slots, Window, make_counter

STEPS = st.lists(st.tuples(st.floats(0, 20), st.integers(1, 60)), max_size=60)
"""Seconds since the last request, and its cost."""


def let_through(counter: Counter, steps: list[tuple[float, int]]) -> list[tuple[float, int]]:
    now, passed = 1000.0, []
    for pause, cost in steps:
        now += pause
        has_room = counter.wait(cost, now) == 0
        assert counter.take(cost, now) is has_room
        if has_room:
            passed.append((now, cost))
    return passed


@given(STEPS)
def test_a_window_lets_no_more_than_the_amount_through_in_any_span_of_its_length(
    steps: list[tuple[float, int]],
) -> None:
    passed = let_through(Window(100, 30), steps)
    for end, _ in passed:
        assert sum(cost for at, cost in passed if end - 30 < at <= end) <= 100


@given(STEPS)
def test_a_bucket_lets_no_more_through_than_its_amount_and_its_rate_in_any_span(
    steps: list[tuple[float, int]],
) -> None:
    passed = let_through(Bucket(100, 30), steps)
    for index, (begin, _) in enumerate(passed):
        total = 0
        for end, cost in passed[index:]:
            total += cost
            assert total <= 100 + (end - begin) * 100 / 30 + 1e-6


@given(STEPS, st.integers(1, 100), st.sampled_from([Bucket, Window]))
def test_a_request_that_comes_back_when_it_was_told_to_has_room(
    steps: list[tuple[float, int]], cost: int, kind: type[Bucket | Window]
) -> None:
    counter = kind(100, 30)
    passed = let_through(counter, steps)
    now = passed[-1][0] if passed else 1000.0
    wait = counter.wait(cost, now)
    if wait > 0.01:
        assert counter.wait(cost, now + wait - 0.01) > 0
    assert counter.wait(cost, now + wait + 1e-6) == 0


@given(STEPS, st.integers(1, 100), st.sampled_from([Bucket, Window]))
def test_what_is_taken_and_untaken_has_never_been(
    steps: list[tuple[float, int]], cost: int, kind: type[Bucket | Window]
) -> None:
    counter, twin = kind(100, 30), kind(100, 30)
    passed, _ = let_through(counter, steps), let_through(twin, steps)
    now = passed[-1][0] + 1.0 if passed else 1000.0
    if counter.take(cost, now):
        counter.untake(cost)
    for later in (now, now + 10.0, now + 29.0):
        assert counter.used(later) == pytest.approx(twin.used(later), abs=1e-6)
        assert counter.empty_after(later) == pytest.approx(twin.empty_after(later), abs=1e-6)


@pytest.mark.parametrize("window", [1, 60, 3600, 86_400])
def test_the_boundary_of_a_window_admits_no_second_burst(window: int) -> None:
    counter = make_counter(Limit(dimension="requests", window_seconds=window, amount=50, scope="key"), 50)
    before, after = window - 0.001, window + 0.001
    assert sum(cost for _, cost in let_through(counter, [(before, 1), *[(0, 1)] * 80])) == 50
    assert counter.wait(1, 1000 + after) > 0


def test_a_window_holds_use_at_most_one_part_too_long() -> None:
    window = Window(10, 60)
    window.add(10, 1000.9)
    assert window.wait(1, 1060.8) > 0
    assert window.wait(1, 1000.9 + 60 + 60 / PARTS) == 0


def test_use_that_is_spread_comes_back_part_by_part() -> None:
    window = Window(30, 3600)
    for minute in (0, 10, 20):
        window.add(10, minute * 60)
    assert window.wait(10, 1800) == pytest.approx(3660 - 1800)
    assert window.wait(20, 1800) == pytest.approx(3660 + 600 - 1800)


@pytest.mark.parametrize("counter", [Bucket(10, 60), Window(10, 3600), Slots(10)])
def test_what_is_larger_than_the_limit_never_has_room(counter: Counter) -> None:
    assert counter.wait(11, 0.0) == inf


@pytest.mark.parametrize("counter", [Bucket(10, 60), Window(10, 3600), Slots(10)])
def test_what_is_given_back_has_room_again(counter: Counter) -> None:
    counter.add(10, 5.0)
    assert counter.wait(4, 5.0) > 0
    counter.give_back(4, 5.0, 5.0)
    assert counter.used(5.0) == 6
    assert counter.wait(4, 5.0) == 0


@pytest.mark.parametrize("counter", [Bucket(10, 60), Window(10, 3600)])
def test_giving_back_after_the_window_changes_nothing(counter: Counter) -> None:
    counter.add(10, 0.0)
    counter.add(3, 4000.0)
    counter.give_back(10, 0.0, 4000.0)
    assert counter.used(4000.0) == 3


@given(st.lists(st.tuples(st.floats(0, 8), st.integers(1, 30), st.integers(0, 30)), min_size=1, max_size=30))
def test_a_window_never_counts_less_than_was_used_whatever_is_given_back(
    requests: list[tuple[float, int, int]],
) -> None:
    window, now, truth = Window(100, 30), 0.0, []
    for pause, reserved, unused in requests:
        now += pause
        window.add(reserved, now)
        truth.append((now, reserved - min(unused, reserved)))
        window.give_back(min(unused, reserved), now, now)
    for later in (0.0, 5.0, 15.0, 29.0):
        at = now + later
        assert window.used(at) >= sum(used for when, used in truth if at - 30 < when <= at)


def test_more_than_was_reserved_is_owed_and_drains() -> None:
    bucket = Bucket(60, 60)
    bucket.add(90, 0.0)
    assert bucket.wait(1, 0.0) == pytest.approx(31)
    assert bucket.empty_after(0.0) == pytest.approx(90)


def test_an_empty_counter_is_empty_at_once() -> None:
    assert [make.empty_after(9.0) for make in (Bucket(1, 1), Window(1, 100), Slots(1))] == [0, 0, 0]
