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


def test_a_trial_succeeds_at_the_moment_its_places_have_run() -> None:
    saturation = Saturation(16, 0.0)
    saturation.limit, saturation.trying = 20, 4
    for _ in range(20):
        saturation.dispatched(0.0, streamed=True)
    for _ in range(18):
        saturation.first_token(0.1)
    assert saturation.trying == 4
    saturation.first_token(0.1)
    assert (saturation.limit, saturation.trying) == (20, 0)


def test_a_trial_that_nobody_used_is_over_and_held_against_nothing() -> None:
    saturation = Saturation(8, 0.0)
    now = run_full(saturation, 0.0, 60.0)
    grown = saturation.limit - saturation.trying
    saturation.trying, saturation.limit = 2, grown + 2
    rest = saturation._rest
    for _ in range(100):
        saturation.dispatched(now, streamed=True)
        saturation.first_token(now + 0.05)
        saturation.ended(now + 0.1, answered=True)
        saturation.ended(now + 0.1, answered=True) if saturation._running > 4 else None
        now += 0.1
    assert (saturation.limit, saturation.trying, saturation._rest) == (grown, 0, rest)
