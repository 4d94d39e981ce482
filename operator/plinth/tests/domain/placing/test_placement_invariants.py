"""What must hold of every plan, whatever the fleet looks like."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.placing.demands import Demand
from plinth.domain.placing.hosts import Hold
from plinth.domain.placing.plan import PlacementPlan, plan_places
from plinth.domain.placing.room import Room
from plinth.tests.domain.placing.fleets import fleets, fragmented_fleets
from plinth.tests.domain.placing.instances import Instance
from plinth.tests.domain.placing.placing_builders import (
    faults_of,
    make_demand,
    make_hold,
    make_host,
    plan_of,
)
from plinth.tests.searching import examples

MOVES = 2


def planned(fleet: Instance, moves: int = MOVES) -> PlacementPlan:
    room = Room()
    room.update(fleet.hosts, fleet.holds)
    return plan_places(room, fleet.demands, moves=moves)


@given(fleets())
@examples(300)
def test_every_replica_is_whole_within_its_bounds_and_takes_only_what_is_free(fleet: Instance) -> None:
    assert faults_of(planned(fleet), fleet.hosts, fleet.holds, fleet.demands) == []


@given(fleets())
@examples(200)
def test_only_lower_priorities_are_displaced_and_what_a_model_needs_goes_only_for_what_is_needed(
    fleet: Instance,
) -> None:
    plan = planned(fleet)
    for replica in plan.displaced:
        victim = fleet.demands[fleet.holds[replica].model]
        waiting = [name for name, placed in plan.placed.items() if replica in placed.after]
        assert waiting
        assert max(_demand_of(fleet, name).priority for name in waiting) > victim.priority
    staying = Counter(hold.model for hold in fleet.holds.values() if not hold.leaving)
    lost = Counter(fleet.holds[replica].model for replica in plan.displaced)
    for model, number in lost.items():
        spares = staying[model] - number >= fleet.demands[model].kept
        assert spares or any(_is_needed(fleet, name) for name in plan.placed)


@given(fleets())
@examples(200)
def test_moves_stay_within_the_budget_and_serve_somebody(fleet: Instance) -> None:
    plan = planned(fleet)
    assert len(plan.moved) <= MOVES
    awaited = {replica for placed in plan.placed.values() for replica in placed.after}
    assert plan.moved.keys() <= awaited
    assert not plan.moved.keys() & plan.displaced.keys()
    assert awaited <= plan.moved.keys() | plan.displaced.keys() | {
        hold.replica for hold in fleet.holds.values() if hold.leaving
    }


@given(fragmented_fleets())
@examples(150)
def test_moves_gather_what_is_free_and_nothing_else_is_disturbed(fleet: Instance) -> None:
    plan = planned(fleet)
    assert faults_of(plan, fleet.hosts, fleet.holds, fleet.demands) == []
    assert not plan.displaced
    size = fleet.demands["wide"].options[0].gang.accelerators
    held = Counter(part.host for hold in fleet.holds.values() for part in hold.place)
    short = min(max(0, size - (4 - held[host])) for host in fleet.hosts)
    elsewhere = 4 * len(fleet.hosts) - held.total() - size
    assert len(plan.moved) == (short if short <= MOVES and elsewhere >= 0 else 0)
    assert ("wide.0" in plan.placed) == (short <= MOVES and elsewhere >= 0)


@given(fleets())
@examples(150)
def test_what_is_of_lower_priority_changes_nothing_for_what_is_above(fleet: Instance) -> None:
    above = {name for name, demand in fleet.demands.items() if demand.priority > 0}
    alone = {
        name: demand if name in above else replace(demand, missing=())
        for name, demand in fleet.demands.items()
    }
    of_all, of_some = planned(fleet), planned(replace(fleet, demands=alone))
    asked = {replica for name in above for replica in fleet.demands[name].missing}
    assert of_all.pending.keys() & asked == of_some.pending.keys()


@given(fleets())
@examples(150)
def test_carried_out_in_full_again_and_again_plans_come_to_rest(fleet: Instance) -> None:
    asked = sum(len(demand.missing) for demand in fleet.demands.values())
    for _ in range(asked + 1):
        plan = planned(fleet)
        if not plan.placed:
            break
        fleet = _carried_out(fleet, plan)
    assert not plan.placed
    assert not plan.displaced
    assert not plan.moved


@given(
    st.lists(st.sampled_from([1, 1, 2, 3, 4]), max_size=6),
    st.lists(st.sampled_from([1, 1, 2, 3, 4]), max_size=6),
    st.integers(1, 4),
)
@examples(150)
def test_no_fewer_could_be_displaced(on_a: list[int], on_b: list[int], size: int) -> None:
    holds, needs = [], []
    for host, sizes in (("a", on_a), ("b", on_b)):
        first, there = 0, []
        for number, each in enumerate(sizes):
            if first + each <= 6:
                holds.append(make_hold(f"{host}{number}.0", host, *range(first, first + each)))
                there.append(each)
                first += each
        needs += [
            number
            for number in range(len(there) + 1)
            if any(6 - first + sum(gone) >= size for gone in combinations(there, number))
        ]
    known = [make_demand(hold.model, 0, kept=0) for hold in holds]
    plan = plan_of(
        [make_host("a", 6), make_host("b", 6)], [make_demand(accelerators=size, priority=1), *known], holds
    )
    assert len(plan.displaced) == min(needs)


def _is_needed(fleet: Instance, replica: str) -> bool:
    demand = _demand_of(fleet, replica)
    there = sum(hold.model == demand.model and not hold.leaving for hold in fleet.holds.values())
    return there + demand.missing.index(replica) < demand.kept


def _demand_of(fleet: Instance, replica: str) -> Demand:
    return next(demand for demand in fleet.demands.values() if replica in demand.missing)


def _carried_out(fleet: Instance, plan: PlacementPlan) -> Instance:
    """What leaves is gone, what was placed runs, what was moved runs there; the others ask again."""
    gone = plan.displaced.keys() | plan.moved.keys()
    holds = {name: hold for name, hold in fleet.holds.items() if not hold.leaving and name not in gone}
    holds |= {name: fleet.holds[name]._replace(place=move.place) for name, move in plan.moved.items()}
    for name, placed in plan.placed.items():
        model = _demand_of(fleet, name).model
        holds[name] = Hold(name, model, placed.pool, placed.gang, placed.place)
    left = {
        model: replace(demand, missing=tuple(each for each in demand.missing if each in plan.pending))
        for model, demand in fleet.demands.items()
    }
    return Instance(hosts=fleet.hosts, holds=holds, demands=left)
