"""One plan for all that has no place: the entry of this package. It changes the room and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from plinth.domain.placing.demands import Demand, Gang
from plinth.domain.placing.hosts import Hold, Place
from plinth.domain.placing.packing import Packing, Wanted
from plinth.domain.placing.pending import Explainer
from plinth.domain.placing.room import Room
from plinth.domain.placing.yielding import Yielding


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A new replica and its place."""

    pool: str
    gang: Gang
    place: Place
    after: tuple[str, ...] = ()
    """Replicas that must be gone before it can be created there; the place is kept for it meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """A running replica that is to go elsewhere, so that another one fits: first the new one starts, then it drains."""

    place: Place
    """Kept for it."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class PlacementPlan:
    """Every new replica's place or why it has none, and what becomes of others for it. By replica."""

    placed: Mapping[str, Placed]
    moved: Mapping[str, Move]
    displaced: Mapping[str, str]
    """Running replicas that drain now, and why."""
    pending: Mapping[str, str]
    """Replicas without a place: what they need, who holds it, what would free it."""


def plan_places(room: Room, demands: Mapping[str, Demand], *, moves: int) -> PlacementPlan:
    """Places for all that is missing. At most so many moves are begun; what leaves already is in the room's holds."""
    packing = Packing(room, wanted_of(room, demands))
    yielding = Yielding(room, demands, moves)
    pending: list[Wanted] = []
    if not packing.pack(packing.wanted.values()):
        in_turn = sorted(packing.wanted.values(), key=lambda each: each.by_right)
        for _, equals in groupby(in_turn, key=lambda each: each.demand.priority):
            pending += _place_equals(tuple(equals), packing, yielding)
    packing.tidy()
    explainer = Explainer(room, demands)
    return PlacementPlan(
        placed={name: _placed(room, room.holds[name]) for name in packing.wanted if name in room.holds},
        moved={replica: Move(place=place, reason=why) for replica, (place, why) in yielding.moved.items()},
        displaced=yielding.displaced,
        pending={wanted.replica: explainer.explain(wanted) for wanted in pending},
    )


def wanted_of(room: Room, demands: Mapping[str, Demand]) -> Iterator[Wanted]:
    """The replicas without a place."""
    for demand in demands.values():
        there = room.staying[demand.model] if demand.missing else 0
        for number, replica in enumerate(demand.missing):
            yield Wanted(replica, there + number, demand)


def _place_equals(equals: tuple[Wanted, ...], packing: Packing, yielding: Yielding) -> Iterator[Wanted]:
    """Place replicas of one priority: all of them, else each in its turn. Yields those that stay without a place."""
    if packing.pack(equals):
        return
    hopeless = set[object]()
    for wanted in equals:
        # What is needed comes first: where that finds nothing, what is not needed finds nothing either.
        if wanted.shapes in hopeless:
            yield wanted
        elif not packing.place(wanted):
            if yielding.make_room(wanted):
                packing.settled.add(wanted.replica)
            else:
                hopeless.add(wanted.shapes)
                yield wanted


def _placed(room: Room, hold: Hold) -> Placed:
    return Placed(pool=hold.pool, gang=hold.gang, place=hold.place, after=room.waits_for(hold))
