"""Which replicas are taken out for being out of line, for how long, and how many at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.gateway.routing.choice import Standing
from plinth.gateway.routing.ejection import Ejector, budget
from plinth.tests.gateway.routing.builders import make_standing


def make_fleet(count: int = 8, **fields: object) -> list[Standing]:
    """Replicas that have proved themselves at 10,000 tokens a second and 20 ms a token."""
    fleet = [make_standing(f"r{number}", **fields) for number in range(count)]
    for item in fleet:
        prove(item)
    return fleet


def prove(item: Standing) -> None:
    item.pace.answers = 100
    item.pace.tpot = 0.02


def set_rate(item: Standing, rate: float) -> None:
    item.pace.restart(rate)
    prove(item)


def out(fleet: list[Standing]) -> list[str]:
    return [item.slot for item in fleet if item.ejected]


def test_replicas_in_line_stay() -> None:
    fleet = make_fleet()
    set_rate(fleet[0], 4000)
    fleet[1].pace.tpot = 0.045
    assert Ejector().review(fleet, 0.0) == []


def test_a_replica_that_reads_or_writes_three_times_slower_is_taken_out_with_the_reason() -> None:
    fleet = make_fleet()
    set_rate(fleet[0], 3000)
    fleet[1].pace.tpot = 0.07
    told = Ejector().review(fleet, 0.0)
    assert [each.reason for each in told] == [
        "it reads 3000 prompt tokens a second, its peers 10000; out for 10 s",
        "it writes a token in 70 ms, its peers in 20 ms; out for 10 s",
    ]
    assert out(fleet) == ["r0", "r1"]


def test_five_failures_in_a_row_take_a_replica_out_before_it_ever_answered() -> None:
    fleet = [make_standing(f"r{number}") for number in range(3)]
    for _ in range(5):
        fleet[1].pace.saw_failure()
    [told] = Ejector().review(fleet, 0.0)
    assert (told.slot, told.is_out) == ("r1", True)
    assert "5 requests in a row failed" in told.reason


def test_a_few_answers_prove_nothing() -> None:
    fleet = make_fleet()
    fleet[0].pace.restart(100.0)
    fleet[0].pace.answers = 15
    assert Ejector().review(fleet, 0.0) == []


def test_an_old_accelerator_beside_new_ones_is_not_out_of_line() -> None:
    fleet = [*make_fleet(4, kind="H200"), *make_fleet(2, kind="L4")]
    for index, item in enumerate(fleet):
        item.slot = f"r{index}"
        if item.kind == "L4":
            set_rate(item, 1500)
    assert Ejector().review(fleet, 0.0) == []
    set_rate(fleet[5], 400)
    assert [each.slot for each in Ejector().review(fleet, 0.0)] == ["r5"]


def test_streams_faster_than_reading_are_never_slow() -> None:
    fleet = make_fleet()
    for item in fleet:
        item.pace.tpot = 0.005
    fleet[0].pace.tpot = 0.04
    assert Ejector().review(fleet, 0.0) == []


def test_a_replica_comes_back_after_its_time_and_is_judged_anew() -> None:
    fleet, ejector = make_fleet(), Ejector()
    set_rate(fleet[0], 1000)
    ejector.review(fleet, 100.0)
    assert ejector.review(fleet, 109.9) == []
    [told] = ejector.review(fleet, 110.0)
    assert (told.slot, told.is_out, out(fleet)) == ("r0", False, [])
    assert ejector.review(fleet, 111.0) == []  # no answer yet


def test_who_is_taken_out_again_stays_out_twice_as_long_until_forgiven() -> None:
    fleet, ejector = make_fleet(), Ejector()
    spans, now = [], 0.0
    for gap in (1, 1, 1, 1, 1, 1, 1, 601):
        now += gap
        set_rate(fleet[0], 1000)
        [told] = ejector.review(fleet, now)
        spans.append(told.reason.rpartition("out for ")[2])
        while fleet[0].ejected:
            now += 1
            ejector.review(fleet, now)
    assert spans == ["10 s", "20 s", "40 s", "80 s", "160 s", "300 s", "300 s", "10 s"]


def test_a_faulty_accelerator_goes_first_and_stays_out_while_it_is_faulty() -> None:
    fleet, ejector = make_fleet(4), Ejector()
    set_rate(fleet[0], 100)
    fleet[3].fault = "GPU-333 has failing memory"
    [told] = ejector.review(fleet, 0.0)
    assert (told.slot, told.reason) == ("r3", "GPU-333 has failing memory; out for 10 s")
    assert ejector.review(fleet, 60.0) == []
    fleet[3].fault = ""
    assert {each.slot: each.is_out for each in ejector.review(fleet, 61.0)} == {"r3": False, "r0": True}


def test_a_replica_that_is_away_is_not_judged() -> None:
    fleet = make_fleet()
    set_rate(fleet[0], 100)
    fleet[0].available = False
    assert Ejector().review(fleet, 0.0) == []


def test_a_replica_that_left_the_table_is_forgotten() -> None:
    fleet, ejector = make_fleet(), Ejector()
    set_rate(fleet[0], 100)
    ejector.review(fleet, 0.0)
    ejector.review(fleet[1:], 1.0)
    assert ejector._records == {}


@pytest.mark.parametrize(("count", "most"), [(1, 0), (2, 1), (3, 1), (4, 1), (8, 2), (16, 4)])
def test_a_budget_bounds_how_many_are_out(count: int, most: int) -> None:
    fleet = make_fleet(count)
    for item in fleet:
        item.pace.failures = 9
    ejector = Ejector()
    for now in range(5):
        ejector.review(fleet, float(now))
    assert len(out(fleet)) == most == budget(count)


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["slow", "failing", "faulty", "well"])), max_size=40
    )
)
def test_whatever_happens_the_budget_holds_and_all_are_back_in_the_end(events: list[tuple[int, str]]) -> None:
    fleet, ejector = make_fleet(6), Ejector()
    for now, (index, what) in enumerate(events):
        item = fleet[index]
        prove(item)
        set_rate(item, 100 if what == "slow" else 10_000)
        item.pace.failures = 7 if what == "failing" else 0
        item.fault = "hot" if what == "faulty" else ""
        ejector.review(fleet, float(now * 3))
        assert len(out(fleet)) <= budget(6)
    for item in fleet:
        item.pace.restart(10_000)
        item.fault = ""
    ejector.review(fleet, 1000.0)
    assert out(fleet) == []


def test_of_two_replicas_the_slower_one_is_out_of_line() -> None:
    fleet = make_fleet(2)
    set_rate(fleet[1], 2000.0)
    assert [each.slot for each in Ejector().review(fleet, 0.0)] == ["r1"]


def test_what_slows_all_takes_none_out() -> None:
    fleet = make_fleet()
    for item in fleet:
        set_rate(item, 300.0)
        item.pace.tpot = 0.5
    assert Ejector().review(fleet, 0.0) == []
