"""Several gateways' reports added up: what the cycle is told, and what it must never be told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.load_reports import TOTALS, ReportSum, asks_for_a_pass
from plinth.domain.traffic import LoadReport, ModelLoad, ReplicaLoad, ReplicaState

READY, DRAINING, DEAD = ReplicaState.READY, ReplicaState.DRAINING, ReplicaState.DEAD
MODEL, SLOT = "default/chat", "default.chat.cafe.0"


def make_report(
    gateway: str = "one",
    *,
    version: int = 1,
    state: ReplicaState | None = READY,
    in_flight: int = 0,
    arrivals: int = 0,
    peak: int = 0,
    queued: int = 0,
) -> LoadReport:
    load = ModelLoad(in_flight=in_flight, queued=queued, peak=peak, arrivals_total=arrivals)
    replica = ReplicaLoad(
        in_flight=in_flight, state=state or READY, detail="refused" if state is DEAD else ""
    )
    return LoadReport(
        gateway=gateway,
        table_version=version,
        models={MODEL: load},
        replicas={SLOT: replica} if state else {},
    )


def state_of(*reports: LoadReport, draining_since: int | None = None) -> ReplicaState | None:
    draining = {} if draining_since is None else {SLOT: draining_since}
    found = ReportSum("all").add(reports, draining).replicas.get(SLOT)
    return found.state if found else None


def test_what_is_in_flight_is_the_sum_and_the_version_is_the_oldest() -> None:
    one = make_report("one", version=7, in_flight=2, peak=3, queued=1)
    two = make_report("two", version=5, in_flight=4, peak=4)
    found = ReportSum("all").add([one, two], {})
    load = found.models[MODEL]
    assert (found.gateway, found.table_version) == ("all", 5)
    assert (load.in_flight, load.queued, load.peak) == (6, 1, 7)
    assert found.replicas[SLOT].in_flight == 6


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (READY, READY, READY),
        (DRAINING, READY, READY),
        (DRAINING, DRAINING, DRAINING),
        (DEAD, READY, READY),
        (DEAD, DEAD, DEAD),
        (DEAD, DRAINING, READY),  # it may come back to life for a gateway whose table says Ready
        (DRAINING, None, READY),  # the other's table may be older than the replica
        (DEAD, None, DEAD),
        (None, None, None),
    ],
)
def test_a_replica_drains_only_once_no_gateway_can_send_to_it(
    first: ReplicaState | None, second: ReplicaState | None, together: ReplicaState | None
) -> None:
    one, two = make_report("one", state=first), make_report("two", state=second)
    assert state_of(one, two) == state_of(two, one) == together


def test_a_gateway_that_lists_it_no_more_is_done_once_its_table_says_so() -> None:
    one, two = make_report("one", version=4, state=DRAINING), make_report("two", version=3, state=None)
    assert state_of(one, two, draining_since=4) is READY
    assert state_of(one, replace(two, table_version=4), draining_since=4) is DRAINING


def test_a_replica_that_nobody_lists_any_more_has_drained_with_nothing_in_flight() -> None:
    gone = [make_report(name, version=9, state=None) for name in ("one", "two")]
    found = ReportSum("all").add(gone, {SLOT: 9}).replicas
    assert found == {SLOT: ReplicaLoad(in_flight=0, state=DRAINING)}
    assert ReportSum("all").add(gone, {SLOT: 10}).replicas == {}


def test_the_reason_of_a_death_is_passed_on() -> None:
    found = ReportSum("all").add([make_report("one", state=DEAD), make_report("two", state=DEAD)], {})
    assert found.replicas[SLOT].detail == "refused"


def test_a_restarted_gateway_takes_nothing_back_from_the_totals() -> None:
    reports = ReportSum("all")
    reports.add([make_report("one", arrivals=100), make_report("two", arrivals=50)], {})
    found = reports.add([make_report("one", arrivals=110), make_report("two", arrivals=55)], {})
    assert found.models[MODEL].arrivals_total == 15
    found = reports.add([make_report("one", arrivals=110), make_report("two-again", arrivals=0)], {})
    assert found.models[MODEL].arrivals_total == 15
    found = reports.add([make_report("one", arrivals=110), make_report("two-again", arrivals=3)], {})
    assert found.models[MODEL].arrivals_total == 18


def test_what_a_gateway_counted_before_anyone_looked_is_not_counted_at_once() -> None:
    assert ReportSum("all").add([make_report(arrivals=10_000)], {}).models[MODEL].arrivals_total == 0


def test_a_model_that_leaves_the_table_and_comes_back_keeps_its_totals() -> None:
    reports = ReportSum("all")
    reports.add([make_report(arrivals=1)], {})
    reports.add([make_report(arrivals=9)], {})
    assert reports.add([LoadReport(gateway="one", table_version=2)], {}).models == {}
    assert reports.add([make_report(arrivals=9)], {}).models[MODEL].arrivals_total == 8


counts = st.integers(0, 50)


@st.composite
def histories(draw: st.DrawFn) -> list[list[LoadReport]]:
    """Gateways that come, count, restart under another name, and go."""
    totals: dict[str, tuple[int, ...]] = {}
    history = []
    for step in range(draw(st.integers(1, 8))):
        for gateway in draw(st.sets(st.sampled_from(["a", "b", "c"]), min_size=1)):
            grown = draw(st.tuples(*[counts] * len(TOTALS)))
            name = f"{gateway}{step}" if draw(st.booleans()) else gateway
            totals[name] = tuple(map(sum, zip(totals.get(name, (0,) * len(TOTALS)), grown, strict=True)))
        living = draw(st.sets(st.sampled_from(sorted(totals)), min_size=1))
        history.append(
            [
                LoadReport(
                    gateway=name,
                    table_version=step,
                    models={
                        MODEL: ModelLoad(
                            in_flight=0, queued=0, peak=0, **dict(zip(TOTALS, totals[name], strict=True))
                        )
                    },
                )
                for name in sorted(living)
            ]
        )
    return history


@given(histories())
def test_totals_never_fall_and_never_tell_more_than_the_gateways_counted(
    history: list[list[LoadReport]],
) -> None:
    reports = ReportSum("all")
    told = [reports.add(each, {}).models[MODEL] for each in history]
    highest = {report.gateway: report.models[MODEL] for each in history for report in each}
    for name in TOTALS:
        series = [getattr(load, name) for load in told]
        assert series == sorted(series)
        assert series[-1] <= sum(getattr(load, name) for load in highest.values())


@given(
    st.lists(
        st.tuples(st.sampled_from([READY, DRAINING, DEAD, None]), st.integers(1, 3)), min_size=1, max_size=4
    ),
    st.integers(1, 3),
)
def test_nothing_drains_while_a_gateway_may_still_send_by_an_older_table(
    gateways: list[tuple[ReplicaState | None, int]], asked: int
) -> None:
    reports = [
        make_report(str(index), state=state, version=version)
        for index, (state, version) in enumerate(gateways)
    ]
    may_send = any(
        state is READY or (state in {DEAD, None} and version < asked) for state, version in gateways
    )
    if state_of(*reports, draining_since=asked) is DRAINING:
        assert not may_send
    elif not may_send:
        assert all(state in {DEAD, None} for state, _ in gateways)


@pytest.mark.parametrize(
    ("now", "asks"),
    [
        (make_report(), False),
        (make_report(arrivals=5), False),
        (make_report(peak=1), True),
        (make_report(queued=1), True),
        (make_report(in_flight=1), True),
        (make_report(state=DRAINING), True),
        (make_report(state=None), True),
    ],
)
def test_the_cycle_is_woken_by_what_may_change_the_plan(now: LoadReport, asks: bool) -> None:  # noqa: FBT001 - a table
    assert asks_for_a_pass(make_report(), now) is asks
