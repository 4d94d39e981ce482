from __future__ import annotations

from plinth.gateway.resume.budget import RepetitionBudget
from plinth.gateway.resume.pace import Pace


def streaming(pace: Pace, seconds: float, step: float, start: float = 0.0) -> float:
    now = start
    while now < start + seconds:
        pace.saw(now, now + step)
        now += step
    return now


def test_a_fast_replica_that_falls_silent_hangs_after_two_seconds() -> None:
    pace = Pace()
    now = streaming(pace, 200, 0.02)
    assert not pace.is_hung(now, now + 1.9)
    assert pace.is_hung(now, now + 2.1)


def test_a_slow_replica_is_given_the_time_that_it_takes() -> None:
    pace = Pace()
    now = streaming(pace, 4000, 1.5)
    assert not pace.is_hung(now, now + 11)
    assert pace.is_hung(now, now + 13)


def test_one_long_silence_teaches_patience_for_a_while() -> None:
    pace = Pace()
    now = streaming(pace, 200, 0.02)
    pace.saw(now, now + 3)
    assert not pace.is_hung(now + 3, now + 13)
    now = streaming(pace, 60, 0.02, start=now + 3)
    assert pace.is_hung(now, now + 2.1)


def test_a_silent_stream_among_talking_ones_is_waited_for_four_times_as_long() -> None:
    pace = Pace()
    now = streaming(pace, 200, 0.02)
    pace.saw(now + 6.98, now + 7)
    assert not pace.is_hung(now, now + 7)
    assert pace.is_hung(now, now + 300)


def test_nothing_is_called_hung_within_half_a_minute_before_a_pace_is_known() -> None:
    assert not Pace().is_hung(100, 129)
    assert Pace().is_hung(100, 131)


def test_repetitions_are_a_fifth_of_the_requests_once_the_savings_are_spent() -> None:
    budget = RepetitionBudget(0.0)
    assert sum(budget.take(0.0) for _ in range(1000)) == 100
    for _ in range(1001):
        budget.pay_in()
    assert sum(budget.take(0.0) for _ in range(1000)) == 200


def test_a_quiet_gateway_repeats_ten_times_a_second() -> None:
    budget = RepetitionBudget(0.0)
    assert sum(budget.take(0.0) for _ in range(1000)) == 100
    assert sum(budget.take(1.0) for _ in range(1000)) == 10
    assert sum(budget.take(100.0) for _ in range(1000)) == 100
