from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.api.v1alpha1 import Scaling
from plinth.domain.fleet import LoadWindow
from plinth.domain.scaling import ScalingDecision, ScalingRequest, desired_replicas, replicas_for
from plinth.domain.traffic import ModelLoad
from plinth.tests.domain.builders import make_window


def bounds(least: int = 1, most: int = 10, *, target: int = 80, quiet: int = 60) -> Scaling:
    return Scaling(
        min_replicas=least, max_replicas=most, target_utilization_percent=target, quiet_seconds=quiet
    )


def decide(now: float = 1000.0, **changes: Any) -> ScalingDecision:
    load = changes.pop("load", 0)
    queued = changes.pop("queued", 0)
    known = None if load is None else ModelLoad(in_flight=load, queued=queued, peak=load + queued)
    request: dict[str, Any] = {
        "scaling": bounds(),
        "concurrency": 8,
        "window": make_window(),
        "load": known,
        "current": 1,
        "answered": True,
        "newest_ready_at": None,
    }
    return desired_replicas(ScalingRequest(**{**request, **changes}), now)


@pytest.mark.parametrize(("load", "replicas"), [(0, 0), (1, 1), (6, 1), (7, 2), (60, 10)])
def test_so_many_replicas_keep_the_load_at_the_target(load: int, replicas: int) -> None:
    assert replicas_for(load, scaling=bounds(), concurrency=8) == replicas


def test_one_request_never_asks_for_two_replicas() -> None:
    assert replicas_for(1, scaling=bounds(target=50), concurrency=1) == 1


def test_load_brings_replicas_at_once_however_short_the_watch() -> None:
    decision = decide(load=20, window=LoadWindow())
    assert decision.replicas == 4
    assert decision.reason == "4 replicas: 20 requests in flight or queued, 8 each at 80%"


def test_requests_held_in_the_gateway_count_as_load() -> None:
    assert decide(load=8, queued=12).replicas == 4


def test_replicas_still_starting_are_credited() -> None:
    assert decide(load=20, current=4).replicas == 4


def test_the_bounds_hold_whatever_the_load() -> None:
    assert decide(load=1000).replicas == 10
    assert decide(load=1000).reason.endswith("(maxReplicas)")
    assert decide(load=0, scaling=bounds(least=3)).replicas == 3


def test_a_lowered_maximum_holds_at_once_and_without_any_report() -> None:
    assert decide(current=5, load=None, scaling=bounds(most=2)).replicas == 2


def test_load_that_falls_keeps_its_replicas_for_the_quiet_time_then_steps_to_what_it_needs() -> None:
    """Six replicas for 36 requests; at 100 s the load falls to 10, that is 2 replicas."""
    before, after = [(t, 36) for t in range(0, 100, 2)], [(t, 10) for t in range(100, 200, 2)]
    decisions = {}
    for now in (101, 120, 157, 158, 159, 180):
        samples = tuple((float(t), peak) for t, peak in [*before, *after] if t <= now)
        decisions[now] = decide(float(now), load=10, current=6, window=make_window(*samples)).replicas
    assert decisions == {101: 6, 120: 6, 157: 6, 158: 2, 159: 2, 180: 2}


def test_it_says_when_time_alone_will_let_a_replica_go() -> None:
    window = make_window((90.0, 36), (98.0, 36), (100.0, 10), (110.0, 10))
    assert decide(111.0, load=10, current=6, window=window).next_change_at == 158.0


def test_nothing_will_change_by_time_while_the_load_itself_needs_all() -> None:
    assert decide(111.0, load=38, current=6, window=make_window((110.0, 38))).next_change_at is None


def test_unknown_load_is_not_zero_load() -> None:
    for missing in ({"load": None}, {"window": LoadWindow()}):
        decision = decide(current=6, **missing)
        assert decision.replicas == 6
        assert "unknown" in decision.reason


def test_nothing_goes_before_one_quiet_time_was_watched() -> None:
    window = make_window((950.0, 0), (999.0, 0), since=950.0)
    assert decide(1000.0, current=4, window=window).replicas == 4
    assert decide(1000.0, current=4, window=window).next_change_at == 1010.0
    assert decide(1010.0, current=4, window=window).replicas == 1


def test_a_new_replica_stays_for_the_quiet_time_however_long_it_took_to_start() -> None:
    held = decide(1000.0, current=2, newest_ready_at=990.0)
    assert (held.replicas, held.next_change_at) == (2, 1050.0)
    assert decide(1050.0, current=2, newest_ready_at=990.0).replicas == 1


def test_zero_is_reached_only_where_allowed_and_only_without_any_request() -> None:
    asleep = bounds(least=0)
    assert decide(scaling=asleep).replicas == 0
    assert decide(scaling=asleep, load=1).replicas == 1
    assert decide(scaling=asleep, window=make_window((970.0, 1), (999.0, 0))).replicas == 1
    assert decide(scaling=bounds(least=1)).replicas == 1


def test_one_held_request_wakes_a_model_from_zero() -> None:
    assert decide(scaling=bounds(least=0), current=0, queued=1, window=LoadWindow()).replicas == 1


def test_a_revision_that_never_answered_is_tried_once_though_zero_is_allowed() -> None:
    decision = decide(scaling=bounds(least=0), current=0, answered=False)
    assert (decision.replicas, decision.reason) == (1, "1 replica: this revision has not answered yet")


LOADS = st.integers(0, 500)
SAMPLES = st.lists(st.tuples(st.floats(0, 1000), LOADS), max_size=20).map(lambda s: tuple(sorted(s)))


@given(
    least=st.integers(0, 5),
    extra=st.integers(0, 10),
    load=st.none() | LOADS,
    samples=SAMPLES,
    current=st.integers(0, 20),
    answered=st.booleans(),
    since=st.none() | st.floats(0, 1000),
)
def test_the_wish_stays_within_its_bounds_and_covers_the_load(  # noqa: PLR0917 - hypothesis gives them by name
    least: int,
    extra: int,
    load: int | None,
    samples: tuple[tuple[float, int], ...],
    current: int,
    answered: bool,  # noqa: FBT001 - as above
    since: float | None,
) -> None:
    scaling = bounds(least=least, most=max(1, least + extra))
    window = make_window(*samples, since=since)
    decision = decide(scaling=scaling, load=load, window=window, current=current, answered=answered)
    floor = least if answered else max(least, 1)
    assert floor <= decision.replicas <= scaling.max_replicas
    needed = replicas_for(load or 0, scaling=scaling, concurrency=8)
    assert decision.replicas >= min(needed, scaling.max_replicas)
    if load is None or since is None:
        assert decision.replicas >= min(current, scaling.max_replicas)
    if decision.next_change_at is not None:
        assert decision.replicas > floor


@given(load=LOADS, samples=SAMPLES, current=st.integers(0, 10))
def test_deciding_again_changes_nothing(
    load: int, samples: tuple[tuple[float, int], ...], current: int
) -> None:
    once = decide(load=load, window=make_window(*samples), current=current).replicas
    assert decide(load=load, window=make_window(*samples), current=once).replicas == once
