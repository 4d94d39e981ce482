"""When measured throughput changes what is planned by, and when it does not."""

from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.corrections import (
    LEAST_STRETCHES,
    LEAST_THOUSANDTHS,
    MOST_THOUSANDTHS,
    SpeedStretch,
    correct,
    describe_correction,
)
from plinth.domain.figures import Correction, Prediction
from plinth.tests.domain.builders import make_memory_figures
from plinth.tests.domain.test_figures import COMPUTED

NONE = Correction()


def stretches(*rates: int, in_flight: int = 40) -> list[SpeedStretch]:
    return [SpeedStretch(revision="r", in_flight=in_flight, tokens_per_second=rate) for rate in rates]


def test_six_slow_stretches_correct_the_plan_and_five_do_not() -> None:
    slow = stretches(*[2040] * LEAST_STRETCHES)
    assert correct(NONE, slow, COMPUTED) == Correction(thousandths=850, stretches=6)
    assert correct(NONE, slow[1:], COMPUTED) == NONE


def test_the_median_counts_so_one_odd_stretch_changes_nothing() -> None:
    assert correct(NONE, stretches(2400, 2400, 2400, 2400, 2400, 100), COMPUTED) == NONE


def test_loads_far_from_the_stated_concurrency_say_nothing_about_it() -> None:
    assert correct(NONE, stretches(*[90] * 20, in_flight=1), COMPUTED) == NONE
    assert correct(NONE, stretches(*[1200] * 20, in_flight=32), COMPUTED).thousandths == 500


def test_a_correction_in_use_stays_until_the_median_parts_from_it() -> None:
    held = Correction(thousandths=850, stretches=6)
    assert correct(held, stretches(*[2200] * 8), COMPUTED) is held  # 916 of 1000
    assert correct(held, stretches(*[2400] * 8), COMPUTED) == Correction(thousandths=1000, stretches=8)


def test_without_a_computed_speed_or_load_the_correction_stays() -> None:
    held = Correction(thousandths=850, stretches=6)
    assert correct(held, stretches(*[2400] * 8), None) is held
    assert correct(held, [], COMPUTED) is held


@given(st.integers(500, 1500), st.lists(st.integers(1, 100_000), max_size=40))
def test_whatever_is_measured_the_correction_stays_in_its_bounds_and_settles(
    before: int, rates: list[int]
) -> None:
    found = stretches(*rates)
    once = correct(Correction(thousandths=before), found, COMPUTED)
    assert LEAST_THOUSANDTHS <= once.thousandths <= MOST_THOUSANDTHS
    assert correct(once, found, COMPUTED) is once


def test_the_plan_says_that_it_counts_with_measured_throughput() -> None:
    prediction = Prediction(memory=make_memory_figures(), correction=Correction(thousandths=850, stretches=7))
    assert describe_correction(prediction) == (
        "throughput is counted at 85% of what was computed: the median of 7 measured stretches of load"
    )
    assert describe_correction(Prediction(memory=make_memory_figures())) == ""
