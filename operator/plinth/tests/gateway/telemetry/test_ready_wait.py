"""The wait that a process cannot see."""

from __future__ import annotations

import pytest

from plinth.gateway.telemetry.ready_wait import ReadyWait


def after_a_round(seconds: float) -> ReadyWait:
    wait = ReadyWait()
    wait.begin(100.0, 5.0)
    wait.end(100.0 + seconds)
    return wait


def test_after_sleep_nothing_had_waited() -> None:
    wait = after_a_round(0.010)
    wait.begin(100.5, 5.010)
    assert wait.longest == 0.0


def test_without_sleep_something_may_have_waited_for_the_whole_round_before() -> None:
    wait = after_a_round(0.010)
    wait.begin(100.01002, 5.01002)
    assert wait.longest == pytest.approx(0.01002)


def test_a_timer_that_ran_after_the_sleep_counts() -> None:
    wait = after_a_round(0.010)
    wait.begin(100.5, 5.012)  # 2 ms of work in 490 ms
    assert wait.longest == pytest.approx(0.002)


def test_work_between_rounds_counts_when_there_was_no_sleep() -> None:
    wait = after_a_round(0.010)
    wait.begin(100.013, 5.013)
    assert wait.longest == pytest.approx(0.013)
