"""The limit's single rules."""

from __future__ import annotations

from plinth.gateway.waiting.saturation import Saturation


def run_full(saturation: Saturation, start: float, seconds: float, *, tpot: float | None = None) -> float:
    """Keeps a replica full of streams that start at once and end one after the other, ten a second."""
    now = start
    while now < start + seconds:
        while saturation._running < saturation.limit:
            saturation.dispatched(now, streamed=True)
            saturation.first_token(now)
        now += 0.1
        saturation.ended(now, answered=True, tpot=tpot)
    return now


def test_an_idle_replica_keeps_its_planned_limit() -> None:
    saturation = Saturation(8, 0.0)
    for second in range(200):
        saturation.dispatched(float(second), streamed=True)
        saturation.first_token(second + 0.1)
        saturation.ended(second + 0.9, answered=True)
    assert saturation.limit == 8


def test_a_replica_whose_places_all_run_gets_more() -> None:
    saturation = Saturation(8, 0.0)
    run_full(saturation, 0.0, 120.0)
    assert saturation.limit > 16


def test_requests_that_are_not_streamed_tell_nothing() -> None:
    saturation = Saturation(8, 0.0)
    for _ in range(8):
        saturation.dispatched(0.0, streamed=False)
    for tenth in range(600):
        saturation.ended(tenth / 10, answered=True)
        saturation.dispatched(tenth / 10, streamed=False)
    assert saturation.limit == 8


def test_an_overloaded_replica_gets_a_third_less_than_it_had() -> None:
    saturation = Saturation(32, 0.0)
    for _ in range(20):
        saturation.dispatched(0.0, streamed=True)
    saturation.refused(1.0)
    assert saturation.limit == 14


def test_tokens_slower_than_the_goal_take_places_away() -> None:
    saturation = Saturation(32, 0.0, tpot_goal=0.05)
    now = run_full(saturation, 0.0, 10.0, tpot=0.04)
    grown = saturation.limit
    run_full(saturation, now, 30.0, tpot=0.08)
    assert grown >= 32 > saturation.limit


def test_a_limit_never_falls_below_one() -> None:
    saturation = Saturation(0, 0.0)
    saturation.refused(0.0)
    assert saturation.limit == 1


def under_trial() -> tuple[Saturation, float]:
    """A replica of 16 places that has been full for a while, and is now tried with two more."""
    saturation, now = Saturation(16, 0.0), 0.0
    for _ in range(16):
        saturation.dispatched(now, streamed=True)
        saturation.first_token(now)
    while not saturation.trying:
        now += 0.1
        saturation.ended(now, answered=True)
        saturation.dispatched(now, streamed=True)
        saturation.first_token(now)
    assert saturation.limit == 18
    return saturation, now


def test_a_trial_succeeds_at_the_moment_its_places_run_and_the_next_one_follows() -> None:
    saturation, now = under_trial()
    while saturation._running < 18:
        assert saturation.limit == 18
        saturation.dispatched(now, streamed=True)
        saturation.first_token(now)
    assert (saturation.limit, saturation.trying) == (20, 2)


def test_a_trial_whose_places_only_wait_fails_and_the_next_one_is_later() -> None:
    saturation, now = under_trial()
    rest = saturation._rest
    for _ in range(3):
        saturation.dispatched(now, streamed=True)
    for _ in range(40):
        now += 0.1
        saturation.ended(now, answered=True)
        saturation.first_token(now)
        saturation.dispatched(now, streamed=True)
    assert (saturation.limit, saturation.trying, saturation._rest) == (16, 0, 2 * rest + 1)


def test_a_trial_that_nobody_uses_ends_and_tells_nothing() -> None:
    saturation, now = under_trial()
    rest = saturation._rest
    for _ in range(40):
        now += 0.1
        saturation.ended(now, answered=True)
        saturation.dispatched(now, streamed=True)
        saturation.first_token(now)
    assert (saturation.limit, saturation.trying, saturation._rest) == (16, 0, rest)
