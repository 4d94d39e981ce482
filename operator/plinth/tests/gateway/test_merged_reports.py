"""Several workers' reports as one gateway's: nothing lost, nothing twice, no replica called ready or drained too early."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.load_reports import TOTALS
from plinth.domain.traffic import LoadReport, ModelLoad, ReplicaLoad, ReplicaState
from plinth.gateway.server.cores import usable_cores
from plinth.gateway.server.merged_reports import ReportMerge, is_urgent

READY, DRAINING, DEAD = ReplicaState.READY, ReplicaState.DRAINING, ReplicaState.DEAD


def make_load(**overrides: Any) -> ModelLoad:
    return ModelLoad(**({"in_flight": 0, "queued": 0, "peak": 0} | overrides))


def make_report(
    version: int = 1, *, states: dict[str, ReplicaLoad] | None = None, **models: ModelLoad
) -> LoadReport:
    return LoadReport(gateway="worker", table_version=version, models=models, replicas=states or {})


def counts(arrivals: int, completed: int) -> tuple[int, ...]:
    return (arrivals, completed, *(0,) * (len(TOTALS) - 2))


def at(in_flight: int, state: ReplicaState, detail: str = "") -> ReplicaLoad:
    return ReplicaLoad(in_flight=in_flight, state=state, detail=detail)


def test_load_adds_up_and_each_total_is_counted_from_a_workers_start() -> None:
    merge = ReportMerge("parent")
    merge.take(1, make_report(a=make_load(in_flight=2, queued=1, peak=4, arrivals_total=7)))
    merge.take(
        2, make_report(a=make_load(in_flight=3, peak=3, arrivals_total=5), b=make_load(queued=2, peak=2))
    )
    report = merge.report()
    assert report.gateway == "parent"
    assert report.models["a"] == make_load(in_flight=5, queued=1, peak=7, arrivals_total=12)
    assert report.models["b"] == make_load(queued=2, peak=2)


def test_a_report_taken_twice_counts_once() -> None:
    merge = ReportMerge("parent")
    report = make_report(a=make_load(arrivals_total=7))
    merge.take(1, report)
    merge.take(1, report)
    assert merge.report().models["a"].arrivals_total == 7


def test_a_dead_workers_totals_stay_with_what_it_had_no_time_to_report() -> None:
    merge = ReportMerge("parent")
    merge.take(1, make_report(a=make_load(arrivals_total=7, in_flight=4)))
    merge.take(2, make_report(a=make_load()))
    merge.bury(1, {"a": counts(9, 3)})
    load = merge.report().models["a"]
    assert (load.arrivals_total, load.completed_total, load.in_flight) == (9, 3, 0)
    merge.take(3, make_report(a=make_load(arrivals_total=2)))
    assert merge.report().models["a"].arrivals_total == 11


def test_tokens_reported_of_streams_that_died_with_their_worker_are_not_taken_back() -> None:
    merge = ReportMerge("parent")
    merge.take(1, make_report(a=make_load(output_tokens_total=500)))
    merge.bury(1, {"a": counts(1, 0)})
    merge.take(2, make_report(a=make_load()))
    assert merge.report().models["a"].output_tokens_total == 500


def test_a_peak_is_told_once() -> None:
    merge = ReportMerge("parent")
    merge.take(1, make_report(a=make_load(in_flight=1, peak=9)))
    merge.take(1, make_report(a=make_load(in_flight=1, peak=1)))
    assert merge.report().models["a"].peak == 9
    assert merge.report().models["a"].peak == 1


def test_the_oldest_table_in_use_is_told_and_a_gateway_between_two_workers_keeps_its_version() -> None:
    merge = ReportMerge("parent")
    merge.take(1, make_report(5))
    merge.take(2, make_report(4))
    assert merge.report().table_version == 4
    merge.bury(1, {})
    merge.bury(2, {})
    assert merge.report().table_version == 4


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ([at(1, READY), at(2, READY)], at(3, READY)),
        ([at(1, READY), at(2, DRAINING)], at(3, READY)),
        ([at(0, READY), at(0, DEAD, "refused")], at(0, READY)),
        ([at(0, DEAD, "refused"), at(1, DRAINING)], at(1, DEAD, "refused")),
        ([at(0, DRAINING), at(1, DRAINING)], at(1, DRAINING)),
    ],
)
def test_a_replica_is_as_the_most_hopeful_worker_sees_it(
    loads: list[ReplicaLoad], expected: ReplicaLoad
) -> None:
    merge = ReportMerge("parent")
    for worker, load in enumerate(loads):
        merge.take(worker, make_report(states={"s": load}))
    assert merge.report().replicas == {"s": expected}


STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["count", "report", "die"]), st.integers(0, 5)), max_size=60
)


@given(STEPS)
def test_through_any_deaths_the_sum_is_what_all_workers_ever_counted(
    steps: list[tuple[int, str, int]],
) -> None:
    """Workers count, report now and then and die at any moment; what they counted is found in their memory."""
    merge = ReportMerge("parent")
    alive = dict.fromkeys(range(3), 0)
    keys = {worker: worker for worker in alive}
    ever, told_before, processes = 0, 0, 3
    for worker, step, amount in steps:
        if step == "count":
            alive[worker] += amount
            ever += amount
        elif step == "report":
            merge.take(keys[worker], make_report(a=make_load(arrivals_total=alive[worker])))
        else:
            merge.bury(keys[worker], {"a": counts(alive[worker], 0)})
            alive[worker], keys[worker], processes = 0, processes, processes + 1
        told = merge.report().models.get("a")
        if told is not None:
            assert told_before <= told.arrivals_total <= ever
            told_before = told.arrivals_total
    for worker, total in alive.items():
        merge.take(keys[worker], make_report(a=make_load(arrivals_total=total)))
    assert merge.report().models["a"].arrivals_total == ever


CALM = make_report(states={"s": at(1, READY)}, a=make_load(queued=0))


@pytest.mark.parametrize(
    ("now", "urgent"),
    [
        (replace(CALM, models={"a": make_load(in_flight=5, peak=9)}), False),
        (replace(CALM, table_version=2), True),
        (replace(CALM, models={"a": make_load(queued=1)}), True),
        (replace(CALM, replicas={"s": at(1, DEAD)}), True),
        (replace(CALM, replicas={"s": at(0, READY)}), False),
    ],
)
def test_the_controller_is_told_at_once_of_what_changes_its_plan(now: LoadReport, urgent: bool) -> None:  # noqa: FBT001 - a table
    assert is_urgent(CALM, now) is urgent


def test_the_last_request_of_a_draining_replica_is_urgent_news() -> None:
    before = make_report(states={"s": at(1, DRAINING)})
    assert is_urgent(before, make_report(states={"s": at(0, DRAINING)}))
    assert not is_urgent(before, before)


@pytest.mark.parametrize(
    ("limit", "most"), [("max 100000", 10_000), ("150000 100000", 1), ("50000 100000", 1), ("junk", 10_000)]
)
def test_a_container_gets_no_more_workers_than_its_limit_has_whole_cores(
    tmp_path: Path, limit: str, most: int
) -> None:
    (tmp_path / "cpu.max").write_text(limit + "\n")
    cores = usable_cores(tmp_path / "cpu.max")
    assert 1 <= cores <= most
    if most > 1:
        assert cores == usable_cores(tmp_path / "absent")
