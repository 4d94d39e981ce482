"""Many replicas at once: who gets a place, who yields, and what is said of those without one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plinth.domain.placing.demands import Gang, Near, Option
from plinth.domain.placing.hosts import Host, Standing
from plinth.tests.domain.placing.placing_builders import (
    POOL,
    make_demand,
    make_hold,
    make_host,
    places_of,
    plan_of,
)

OTHER = "l40s"


def test_the_largest_are_placed_first_whoever_asked_first() -> None:
    plan = plan_of(
        [make_host("a", 4), make_host("b", 4)],
        [make_demand("s", 4, turn=0), make_demand("l", accelerators=4, turn=1)],
    )
    assert places_of(plan) == {"l.0": "a:0123", "s.0": "b:0", "s.1": "b:1", "s.2": "b:2", "s.3": "b:3"}


def test_those_with_a_choice_leave_the_scarce_kind_to_those_without() -> None:
    choosy = make_demand("choosy", options=(Option(POOL, Gang(1, 4), 10), Option(OTHER, Gang(1, 4), 30)))
    plan = plan_of(
        [make_host("a", 4), make_host("b", 4, pools=(OTHER,))], [choosy, make_demand("m", accelerators=4)]
    )
    assert places_of(plan) == {"m.0": "a:0123", "choosy.0": "b:0123"}


def test_of_two_with_a_choice_the_one_that_loses_less_takes_the_second() -> None:
    little = make_demand("a", options=(Option(POOL, Gang(1, 4), 10), Option(OTHER, Gang(1, 4), 11)))
    much = make_demand("b", options=(Option(POOL, Gang(1, 4), 10), Option(OTHER, Gang(1, 4), 90)))
    plan = plan_of([make_host("x", 4), make_host("y", 4, pools=(OTHER,))], [little, much])
    assert places_of(plan) == {"b.0": "x:0123", "a.0": "y:0123"}


def test_new_replicas_make_room_for_one_another() -> None:
    """Two of three would take the 8 free ones of `b` away from the four together; they fit on `a` as well."""
    hosts = [make_host("a", 4, 4), make_host("b", 8)]
    holds = [make_hold("x.0", "a", 0), make_hold("x.1", "a", 4)]
    demands = [make_demand("t", 4, accelerators=3), make_demand("f", accelerators=2, turn=1)]
    plan = plan_of(hosts, demands, holds)
    assert not plan.pending


def test_no_more_hosts_are_begun_than_need_be() -> None:
    hosts = [make_host("a", 4), make_host("b", 4), make_host("c", 8)]
    plan = plan_of(hosts, [make_demand("m", 2, accelerators=3), make_demand("n", accelerators=2)])
    assert {place.partition(":")[0] for place in places_of(plan).values()} == {"c"}


def test_what_shares_cores_stays_apart() -> None:
    hosts = [Host(name, (POOL,), (1,), whole=4000) for name in "abc"]
    demand = make_demand(count=4, options=(Option(POOL, Gang(1, 1, 1000, spread=True)),))
    assert sorted(places_of(plan_of(hosts, [demand])).values()) == ["a:0", "a:0", "b:0", "c:0"]


def test_where_not_all_fit_every_models_first_replica_comes_first() -> None:
    plan = plan_of([make_host("a", 4)], [make_demand("old", 4, turn=1), make_demand("new", 2, turn=2)])
    assert sorted(plan.placed) == ["new.0", "old.0", "old.1", "old.2"]


def test_where_not_all_fit_priority_comes_before_all_else() -> None:
    plan = plan_of(
        [make_host("a", 2)], [make_demand("low", turn=1), make_demand("high", 2, priority=10, turn=2)]
    )
    assert sorted(plan.placed) == ["high.0", "high.1"]
    assert sorted(plan.pending) == ["low.0"]


def test_a_place_that_is_being_left_is_kept_for_who_waits_for_it() -> None:
    holds = [make_hold("x.0", "a", 0, 1, 2, leaving=True), make_hold("y.0", "a", 3)]
    plan = plan_of(
        [make_host("a", 8)],
        [make_demand("m", accelerators=6), make_demand("n", 4, turn=1, accelerators=2)],
        holds,
    )
    assert plan.placed["m.0"].after == ("x.0",)
    assert not plan.displaced
    assert sorted(plan.pending) == ["n.0", "n.1", "n.2", "n.3"]


def test_what_is_free_at_once_comes_before_what_is_being_left() -> None:
    plan = plan_of(
        [make_host("a", 2), make_host("b", 2)], [make_demand()], [make_hold("x.0", "a", 0, 1, leaving=True)]
    )
    assert places_of(plan) == {"m.0": "b:0"}
    assert plan.placed["m.0"].after == ()


def test_running_replicas_move_together_where_that_makes_room_and_nobody_is_displaced() -> None:
    holds = [make_hold("x.0", "a", 0, 1), make_hold("y.0", "b", 0, since=5.0)]
    demands = [
        make_demand("m", accelerators=4, priority=10),
        make_demand("x", 0),
        make_demand("y", 0, kept=0),
    ]
    plan = plan_of([make_host("a", 4), make_host("b", 4)], demands, holds, moves=2)
    assert plan.moved["y.0"].place[0].host == "a"
    assert plan.moved["y.0"].reason == "moves, so that m finds 4 accelerators of one link domain"
    assert plan.placed["m.0"].after == ("y.0",)
    assert not plan.displaced


def test_nothing_moves_for_a_lower_priority_nor_beyond_the_budget() -> None:
    hosts = [make_host("a", 4), make_host("b", 4)]
    holds = [make_hold("x.0", "a", 0, 1), make_hold("y.0", "b", 0), make_hold("z.0", "b", 1)]
    known = [make_demand(name, 0, priority=5) for name in "xyz"]
    assert plan_of(hosts, [make_demand(accelerators=4, priority=4), *known], holds, moves=9).pending
    assert plan_of(hosts, [make_demand(accelerators=4, priority=5), *known], holds, moves=0).pending
    assert len(plan_of(hosts, [make_demand(accelerators=4, priority=5), *known], holds, moves=1).moved) == 1


def test_what_takes_more_moves_than_are_left_is_not_begun() -> None:
    hosts = [make_host("a", 2), make_host("b", 1), make_host("c", 1)]
    holds = [make_hold("x.0", "a", 0), make_hold("y.0", "a", 1)]
    demands = [make_demand(accelerators=2), make_demand("x", 0), make_demand("y", 0)]
    assert not plan_of(hosts, demands, holds, moves=1).moved
    assert sorted(plan_of(hosts, demands, holds, moves=2).moved) == ["x.0", "y.0"]


def test_what_runs_stays_where_nothing_waits() -> None:
    holds = [make_hold("x.0", "a", 0), make_hold("y.0", "b", 0)]
    plan = plan_of(
        [make_host("a"), make_host("b")], [make_demand("x", 0), make_demand("y", 0)], holds, moves=9
    )
    assert not plan.moved
    assert not plan.displaced


def test_the_fewest_replicas_are_displaced() -> None:
    holds = [*(make_hold(f"s.{n}", "a", n) for n in range(4)), make_hold("l.0", "b", 0, 1, 2, 3)]
    demands = [
        make_demand("m", accelerators=3, priority=9),
        make_demand("s", 0, kept=0),
        make_demand("l", 0, kept=0),
    ]
    plan = plan_of([make_host("a", 4), make_host("b", 4)], demands, holds)
    assert plan.displaced == {"l.0": "gives way to m: its priority is 0, below 9"}
    assert plan.placed["m.0"].after == ("l.0",)


def test_of_as_many_the_lowest_priority_is_displaced_and_then_the_youngest() -> None:
    holds = [
        make_hold("low.0", "a", 0, since=1.0),
        make_hold("low.1", "a", 1, since=7.0),
        make_hold("mid.0", "a", 2, since=9.0),
    ]
    demands = [
        make_demand("m", priority=9),
        make_demand("low", 0, kept=0),
        make_demand("mid", 0, kept=0, priority=5),
    ]
    assert list(plan_of([make_host("a", 3)], demands, holds).displaced) == ["low.1"]


def test_an_equal_priority_is_never_displaced() -> None:
    plan = plan_of(
        [make_host("a", 1)],
        [make_demand("m", priority=5), make_demand("x", 0, priority=5, kept=0)],
        [make_hold("x.0", "a", 0)],
    )
    assert list(plan.pending) == ["m.0"]


def test_an_equal_priority_is_not_displaced_beside_a_lower_one_either() -> None:
    holds = [make_hold("x.0", "a", 0), make_hold("y.0", "a", 1)]
    demands = [
        make_demand(accelerators=2, priority=5),
        make_demand("x", 0, priority=5, kept=0),
        make_demand("y", 0, kept=0),
    ]
    assert list(plan_of([make_host("a", 2)], demands, holds).pending) == ["m.0"]


@pytest.mark.parametrize(("kept", "displaced"), [(0, 2), (1, 1), (2, 0)])
def test_for_what_only_load_asks_for_a_model_keeps_what_it_needs(kept: int, displaced: int) -> None:
    holds = [make_hold("x.0", "a", 0), make_hold("x.1", "b", 0)]
    demands = [make_demand("m", 2, priority=9), make_demand("x", 0, kept=kept)]
    plan = plan_of([make_host("a", 1), make_host("b", 1)], demands, holds)
    assert len(plan.displaced) == displaced
    assert len(plan.placed) == displaced


def test_for_what_is_needed_a_lower_priority_gives_what_it_needs_too_but_last() -> None:
    hosts, holds = (
        [make_host("a", 1), make_host("b", 1)],
        [make_hold("x.0", "a", 0), make_hold("y.0", "b", 0)],
    )
    known = [make_demand("x", 0, kept=1), make_demand("y", 0, priority=5)]
    plan = plan_of(hosts, [make_demand("m", priority=9, kept=1), *known], holds)
    assert list(plan.displaced) == ["y.0"], "nobody needs it, though its priority is higher"
    plan = plan_of(hosts, [make_demand("m", 2, priority=9, kept=2), *known], holds)
    assert sorted(plan.displaced) == ["x.0", "y.0"]


def test_what_is_needed_comes_first_and_of_that_what_makes_a_running_model_whole() -> None:
    running = replace(make_demand("r", 2, kept=2, turn=9.0), runs=True)
    demands = [running, make_demand("n", 2, kept=1, turn=1.0)]
    hold = make_hold("r.9", "a", 0)
    assert places_of(plan_of([make_host("a", 3)], demands, [hold])).keys() == {"r.0", "n.0"}
    assert places_of(plan_of([make_host("a", 2)], demands, [hold])).keys() == {"r.0"}


def test_replicas_of_models_that_nobody_knows_are_left_alone() -> None:
    plan = plan_of([make_host("a", 1)], [make_demand("m", priority=9)], [make_hold("x.0", "a", 0)], moves=9)
    assert not plan.displaced
    assert "nobody can say what may displace it" in plan.pending["m.0"]


def test_a_gang_over_two_hosts_displaces_on_both() -> None:
    hosts = [make_host(name, 4, rack=rack) for name, rack in (("a", "r"), ("b", "r"), ("c", "s"))]
    holds = [make_hold(f"{name}.0", host, *range(4)) for name, host in (("x", "a"), ("y", "b"), ("z", "c"))]
    known = [make_demand(name, 0, kept=0) for name in "xyz"]
    big = make_demand("m", parts=2, accelerators=4, within=Near.RACK, priority=9)
    plan = plan_of(hosts, [big, *known], holds)
    assert sorted(plan.displaced) == ["x.0", "y.0"]
    assert places_of(plan) == {"m.0": "a:0123 b:0123"}


def test_what_is_left_over_by_a_displaced_replica_serves_others_too() -> None:
    holds = [make_hold("x.0", "a", *range(8))]
    plan = plan_of([make_host("a")], [make_demand("m", 8, priority=9), make_demand("x", 0, kept=0)], holds)
    assert list(plan.displaced) == ["x.0"]
    assert {placed.after for placed in plan.placed.values()} == {("x.0",)}
    assert len(plan.placed) == 8


def test_a_worker_that_could_be_brought_up_is_taken_before_anybody_is_displaced() -> None:
    hosts = [make_host("a", 1), make_host("b", 1, standing=Standing.POSSIBLE)]
    plan = plan_of(
        hosts, [make_demand("m", priority=9), make_demand("x", 0, kept=0)], [make_hold("x.0", "a", 0)]
    )
    assert places_of(plan) == {"m.0": "b:0"}
    assert not plan.displaced


def test_who_waits_is_told_who_holds_what_and_what_would_free_it() -> None:
    holds = [make_hold("x.0", "a", 0, 1, 2, 3), make_hold("y.0", "a", 4, 5), make_hold("y.1", "a", 6)]
    demands = [make_demand(accelerators=2), make_demand("x", 0, priority=5), make_demand("y", 0)]
    assert plan_of([make_host("a")], demands, holds).pending["m.0"] == (
        "a replica needs 2 accelerators of one link domain of pool h200, 1 free at most; "
        "held by x (4 accelerators), y (3 accelerators); "
        "one would fit without y.1 (its priority 0 is not below 0), or on one more host"
    )


def test_what_a_model_needs_is_named_as_such() -> None:
    demands = [make_demand(priority=9), make_demand("x", 0, kept=1)]
    plan = plan_of([make_host("a", 1)], demands, [make_hold("x.0", "a", 0)])
    why = "its model needs it, and only load asks for this one"
    assert f"without x.0 ({why})" in plan.pending["m.0"]


def test_what_could_not_be_started_elsewhere_is_not_moved() -> None:
    hosts = [make_host("a", 2), make_host("b", 2)]
    holds = [make_hold("x.0", "a", 0)._replace(movable=False), make_hold("x.1", "b", 0)]
    plan = plan_of(hosts, [make_demand(accelerators=2), make_demand("x", 0)], holds, moves=1)
    assert list(plan.moved) == ["x.1"]


def test_nobody_is_told_to_do_without_another_of_the_same_model_where_others_hold_as_much() -> None:
    holds = [make_hold("m.8", "a", 0), make_hold("x.0", "a", 1)]
    plan = plan_of([make_host("a", 2)], [make_demand(), make_demand("x", 0, priority=5)], holds)
    assert "without x.0 (its priority 5 is not below 0)" in plan.pending["m.0"]
    plan = plan_of([make_host("a", 1)], [make_demand()], holds[:1])
    assert "without m.8 (of the same model)" in plan.pending["m.0"]


def test_what_can_never_fit_is_told_so() -> None:
    assert plan_of([make_host("a", 4, 4)], [make_demand(accelerators=8)]).pending["m.0"] == (
        "a replica needs 8 accelerators of one link domain of pool h200, 4 free at most; "
        "its largest link domain has 4 accelerators: only a larger one would do"
    )
    assert (
        plan_of([make_host("a", 4)], [make_demand(parts=2, accelerators=4)])
        .pending["m.0"]
        .endswith("it has not so much in all: only more hosts would do")
    )
    assert (
        plan_of([], [make_demand()]).pending["m.0"]
        == "a replica needs 1 accelerator of pool h200, which has no hosts"
    )


def test_shares_that_wait_are_told_in_thousandths() -> None:
    holds = [make_hold("x.0", "a", 0, share=700)]
    assert plan_of([make_host("a", 1)], [make_demand(share=400), make_demand("x", 0)], holds).pending[
        "m.0"
    ] == (
        "a replica needs 400 thousandths of 1 accelerator of pool h200, 300 thousandths free at most; "
        "held by x (0.700 accelerators); one would fit without x.0 (its priority 0 is not below 0), or on one more host"
    )
