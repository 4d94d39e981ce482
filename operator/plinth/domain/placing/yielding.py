"""Who makes room for a replica that finds none: those who leave anyway, those who can go elsewhere, those who matter less.

A move costs nobody a replica: the new one starts before the old one drains. So it comes before displacing, for replicas
of the same or a lower priority, a few of them a pass. Only a higher priority displaces a lower one: as few replicas as
can be, of these the ones of the lowest priority, of these the youngest; and of each model as many stay as must.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from plinth.domain.placing.clearing import Dearness, Rule, Way, find_ways
from plinth.domain.placing.demands import Demand, Option
from plinth.domain.placing.finding import find_place
from plinth.domain.placing.hosts import Hold, Place
from plinth.domain.placing.packing import ATTEMPTS, Wanted
from plinth.domain.placing.room import Room

MOVED = " (moved)"
"""Ends the name under which a moved replica's next place is held."""


class Yielding:
    """What becomes of running replicas in one pass, for the sake of others."""

    def __init__(self, room: Room, demands: Mapping[str, Demand], moves: int) -> None:
        self.room, self.demands, self._moves_left = room, demands, moves
        self._running = frozenset(room.holds)
        self.moved: dict[str, tuple[Place, str]] = {}
        self.displaced: dict[str, str] = {}

    def make_room(self, wanted: Wanted) -> bool:
        """Keep a place for the replica that is free once others are gone."""
        return self._await_leaving(wanted) or self._move(wanted) or self._displace(wanted)

    def _await_leaving(self, wanted: Wanted) -> bool:
        hosts = {part.host for hold in self.room.holds.values() if hold.leaving for part in hold.place}
        for option in wanted.demand.options if hosts else ():
            able = self.room.hosts_of(option.pool)
            able = able & hosts if option.gang.parts == 1 else able
            for way in find_ways(self.room, option, Rule(_nobody), able):
                self.room.put(wanted.at(option, way.place))
                return True
        return False

    def _move(self, wanted: Wanted) -> bool:
        rule = Rule(lambda holds: self._movable(wanted, holds))
        for option in wanted.demand.options if self._moves_left else ():
            ways = find_ways(self.room, option, rule, self.room.hosts_of(option.pool))
            for way in ways[:ATTEMPTS]:
                if len(way.goers) <= self._moves_left and self._move_all(wanted, option, way):
                    return True
        return False

    def _movable(self, wanted: Wanted, holds: Iterable[Hold]) -> Iterator[tuple[Dearness, Hold]]:
        for hold in holds:
            demand = self.demands.get(hold.model)
            if demand and demand.priority <= wanted.demand.priority and hold.replica in self._running:
                yield (demand.priority, -hold.since), hold

    def _move_all(self, wanted: Wanted, option: Option, way: Way) -> bool:
        room, mark, places = self.room, self.room.mark(), dict[str, Place]()
        for hold in way.goers:
            room.put(hold._replace(leaving=True))
        room.put(wanted.at(option, way.place))
        for hold in sorted(way.goers, key=lambda each: (-each.gang.accelerators, each.replica)):
            place = find_place(room, Option(hold.pool, hold.gang), hold.model)
            if place is None:
                room.undo_to(mark)
                return False
            places[hold.replica] = place
            room.put(hold._replace(replica=hold.replica + MOVED, place=place, leaving=False))
        reason = f"moves, so that {wanted.demand.model} finds {option.gang.describe()} in one place"
        self.moved |= {replica: (place, reason) for replica, place in places.items()}
        self._moves_left -= len(places)
        return True

    def _displace(self, wanted: Wanted) -> bool:
        rule = Rule(lambda holds: self._displaceable(wanted, holds))
        best: tuple[Way, Option] | None = None
        for option in wanted.demand.options:
            hosts = self.room.hosts_of(option.pool)
            way = next(iter(find_ways(self.room, option, rule, hosts)), None)
            if way is not None and (best is None or way.cost < best[0].cost):
                best = way, option
        if best is None:
            return False
        way, option = best
        for hold in way.goers:
            self.room.put(hold._replace(leaving=True))
            self.displaced[hold.replica] = self._why(wanted, hold)
        self.room.put(wanted.at(option, way.place))
        return True

    def _displaceable(self, wanted: Wanted, holds: Iterable[Hold]) -> Iterator[tuple[Dearness, Hold]]:
        """Those of a lower priority, of each model no more than it can spare, the youngest."""
        taken = Counter[str]()
        for hold in sorted(holds, key=lambda each: (-each.since, each.replica)):
            demand = self.demands.get(hold.model)
            if demand is None or demand.priority >= wanted.demand.priority:
                continue
            if self.room.staying[hold.model] - taken[hold.model] > demand.kept:
                taken[hold.model] += 1
                yield (demand.priority, -hold.since), hold

    def _why(self, wanted: Wanted, hold: Hold) -> str:
        theirs, ours = wanted.demand.priority, self.demands[hold.model].priority
        return f"gives way to {wanted.demand.model}: its priority is {theirs}, this one's {ours}"


def _nobody(_: Iterable[Hold]) -> Iterable[tuple[Dearness, Hold]]:
    return ()
