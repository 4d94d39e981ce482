"""The plan beside the exact answer, on 500 small fleets."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

import pytest

from plinth.domain.placing.plan import PlacementPlan, plan_places
from plinth.domain.placing.room import Room
from plinth.tests.domain.placing.instances import Instance, Outcome, draw_instance
from plinth.tests.domain.placing.placing_builders import faults_of

INSTANCES = 500


@pytest.fixture(scope="module")
def exact() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # OR-Tools' bindings, as they are loaded
        pytest.importorskip("ortools.sat.python.cp_model")
    return importlib.import_module("plinth.tests.domain.placing.exact")


def test_hosts_in_use_and_prices_stay_within_two_percent_of_the_optimum(exact: ModuleType) -> None:
    """Over all fleets where the same replicas have a place. Where all fit, all have one; where not, nearly as many."""
    mine, best = [], []
    placed, placeable = 0, 0
    for seed in range(INSTANCES):
        fleet = draw_instance(seed)
        outcome, optimum = _outcome(fleet), exact.solve(fleet)
        assert optimum is not None, f"fleet {seed} is too hard to be compared"
        placed, placeable = placed + len(outcome.placed), placeable + len(optimum.placed)
        if all(set(demand.missing) <= optimum.placed for demand in fleet.demands.values()):
            assert outcome.placed == optimum.placed, f"fleet {seed}: all have room, not all have a place"
        if outcome.placed == optimum.placed:
            mine.append(outcome)
            best.append(optimum)
    assert len(mine) >= INSTANCES * 96 // 100
    assert placed >= placeable * 0.995
    for figure in ("accelerators_begun", "price"):
        ratio = sum(getattr(each, figure) for each in mine) / sum(getattr(each, figure) for each in best)
        assert 1 <= ratio <= 1.02, figure


def _outcome(fleet: Instance) -> Outcome:
    room = Room()
    room.update(fleet.hosts, fleet.holds)
    plan = plan_places(room, fleet.demands, moves=0)
    assert faults_of(plan, fleet.hosts, fleet.holds, fleet.demands) == []
    return Outcome(
        placed=frozenset(plan.placed),
        price=_price(plan, fleet),
        accelerators_begun=sum(len(stand.free) for stand in room.stands.values() if stand.holds),
    )


def _price(plan: PlacementPlan, fleet: Instance) -> int:
    prices = {
        (replica, option.pool, option.gang): option.price
        for demand in fleet.demands.values()
        for replica in demand.missing
        for option in demand.options
    }
    return sum(prices[replica, placed.pool, placed.gang] for replica, placed in plan.placed.items())
