"""The plan beside the exact answer over many small fleets: read by the test and by the benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from plinth.domain.placing.plan import PlacementPlan, plan_places
from plinth.domain.placing.room import Room
from plinth.tests.domain.placing.instances import Instance, Outcome, draw_instance
from plinth.tests.domain.placing.placing_builders import faults_of


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Ratios are of sums over the fleets where the same replicas have a place."""

    fleets: int
    same: int
    misfits: tuple[int, ...]
    """Seeds of fleets where all replicas have room and not all have a place."""
    unsolved: tuple[int, ...]
    """Seeds of fleets that took the solver too long."""
    faults: tuple[str, ...]
    placed_ratio: float
    accelerators_ratio: float
    price_ratio: float


def compare(optima: Mapping[int, Outcome | None]) -> Comparison:
    """Plan the fleet of each seed. An optimum is None where the solver did not find it in time."""
    pairs: dict[int, tuple[Outcome, Outcome]] = {}
    faults: list[str] = []
    unsolved, misfits = [], []
    for seed, optimum in optima.items():
        fleet = draw_instance(seed)
        outcome, found = _planned(fleet)
        faults += [f"fleet {seed}: {fault}" for fault in found]
        if optimum is None:
            unsolved.append(seed)
            continue
        pairs[seed] = (outcome, optimum)
        asked = {replica for demand in fleet.demands.values() for replica in demand.missing}
        if asked == optimum.placed != outcome.placed:
            misfits.append(seed)
    same = [pair for pair in pairs.values() if pair[0].placed == pair[1].placed]
    return Comparison(
        fleets=len(pairs),
        same=len(same),
        misfits=tuple(misfits),
        unsolved=tuple(unsolved),
        faults=tuple(faults),
        placed_ratio=_ratio((len(mine.placed), len(best.placed)) for mine, best in pairs.values()),
        accelerators_ratio=_ratio((mine.accelerators_begun, best.accelerators_begun) for mine, best in same),
        price_ratio=_ratio((mine.price, best.price) for mine, best in same),
    )


def _ratio(pairs: Iterable[tuple[int, int]]) -> float:
    both = list(pairs)
    return sum(mine for mine, _ in both) / sum(best for _, best in both)


def _planned(fleet: Instance) -> tuple[Outcome, list[str]]:
    room = Room()
    room.update(fleet.hosts, fleet.holds)
    plan = plan_places(room, fleet.demands, moves=0)
    outcome = Outcome(
        placed=frozenset(plan.placed),
        price=_price(plan, fleet),
        accelerators_begun=sum(len(stand.free) for stand in room.stands.values() if stand.holds),
    )
    return outcome, faults_of(plan, fleet.hosts, fleet.holds, fleet.demands)


def _price(plan: PlacementPlan, fleet: Instance) -> int:
    prices = {
        (replica, option.pool, option.gang): option.price
        for demand in fleet.demands.values()
        for replica in demand.missing
        for option in demand.options
    }
    return sum(prices[replica, placed.pool, placed.gang] for replica, placed in plan.placed.items())
