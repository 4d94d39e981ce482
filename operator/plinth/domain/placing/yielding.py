"""Who makes room for a replica that finds none: those who leave anyway, those who can go elsewhere, those who matter less.

A move costs nobody a replica: the new one starts before the old one drains. So it comes before displacing, for replicas
of the same or a lower priority, a few of them a pass. Only a higher priority displaces a lower one: as few replicas as
can be, of these the ones of the lowest priority, of these the youngest; what models need only where nothing else does,
and only for what is needed itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from heapq import heappop, heappush, heapreplace
from itertools import islice

from plinth.domain.placing.clearing import (
    Dearness,
    Rule,
    Scope,
    Way,
    dearness_of,
    find_way,
    scopes_of,
    scopes_with,
)
from plinth.domain.placing.demands import Demand, Gang, Option
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
        self._victims: dict[tuple[Option, int, bool], _Victims] = {}
        self.moved: dict[str, tuple[Place, str]] = {}
        self.displaced: dict[str, str] = {}

    def make_room(self, wanted: Wanted) -> bool:
        """Keep a place for the replica that is free once others are gone."""
        return self._await_leaving(wanted) or self._move(wanted) or self._displace(wanted)

    def _await_leaving(self, wanted: Wanted) -> bool:
        left = {part.host for name in self.room.leaving for part in self.room.holds[name].place}
        for option in wanted.demand.options:
            for scope in scopes_with(self.room, option, frozenset(left)):
                way = find_way(self.room, scope, option.gang, Rule(_nobody))
                if way is not None:
                    self.room.put(wanted.at(option, way.place))
                    return True
        return False

    def _move(self, wanted: Wanted) -> bool:
        if self.room.most_free < wanted.least:
            return False
        rule = Rule(lambda holds: self._movable(wanted, holds))
        for option in wanted.demand.options if self._moves_left else ():
            found = (
                find_way(self.room, scope, option.gang, rule)
                for scope in islice(scopes_of(self.room, option), ATTEMPTS)
            )
            for way in sorted(filter(None, found), key=lambda each: each.cost):
                if len(way.goers) <= self._moves_left and self._move_all(wanted, option, way):
                    return True
        return False

    def _movable(self, wanted: Wanted, holds: Iterable[Hold]) -> Iterator[tuple[Dearness, Hold]]:
        for hold in holds:
            demand = self.demands.get(hold.model)
            runs = hold.movable and hold.replica in self._running
            if demand and runs and demand.priority <= wanted.demand.priority:
                yield dearness_of(hold, demand.priority), hold

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
        reason = f"moves, so that {wanted.demand.model} finds {option.gang.describe()}"
        self.moved |= {replica: (place, reason) for replica, place in places.items()}
        self._moves_left -= len(places)
        return True

    def _displace(self, wanted: Wanted) -> bool:
        """First of what others do not need, then, for what is needed, of that too."""
        return self._displace_some(wanted, sparing=True) or (
            wanted.is_needed and self._displace_some(wanted, sparing=False)
        )

    def _displace_some(self, wanted: Wanted, *, sparing: bool) -> bool:
        found: list[tuple[tuple[int, tuple[Dearness, ...]], int, Way, Option]] = []
        for number, option in enumerate(wanted.demand.options):
            way = self._victims_for(wanted, option, sparing=sparing).cheapest()
            if way is not None:
                found.append((way.cost, number, way, option))
        if not found:
            return False
        _, _, way, option = min(found, key=lambda each: each[:2])
        for hold in way.goers:
            self.room.put(hold._replace(leaving=True))
            ours = self.demands[hold.model].priority
            self.displaced[hold.replica] = (
                f"gives way to {wanted.demand.model}: its priority is {ours}, below {wanted.demand.priority}"
            )
        self.room.put(wanted.at(option, way.place))
        return True

    def _victims_for(self, wanted: Wanted, option: Option, *, sparing: bool) -> _Victims:
        priority = wanted.demand.priority
        found = self._victims.get((option, priority, sparing))
        if found is None:
            rule = Rule(lambda holds: self._displaceable(priority, holds, sparing=sparing))
            found = _Victims(self.room, option.gang, rule)
            lower = frozenset(host for host, least in self._least.items() if least[0] < priority)
            for scope in scopes_with(self.room, option, lower):
                found.add(scope, min(self._least[host] for host in scope if host in lower))
            self._victims[option, priority, sparing] = found
        return found

    @cached_property
    def _least(self) -> Mapping[str, Dearness]:
        """How dear the least dear replica on each host is, of those that run and that are known."""
        found: dict[str, Dearness] = {}
        for hold in self.room.holds.values():
            demand = self.demands.get(hold.model)
            if demand is not None and hold.replica in self._running:
                dearness = dearness_of(hold, demand.priority)
                for part in hold.place:
                    found[part.host] = min(found.get(part.host, dearness), dearness)
        return found

    def _displaceable(
        self, priority: int, holds: Iterable[Hold], *, sparing: bool
    ) -> Iterator[tuple[Dearness, Hold]]:
        """Those of a lower priority; where sparing, of each model no more than it can spare, the youngest."""
        taken = Counter[str]()
        for hold in sorted(holds, key=lambda each: (-each.since, each.replica)):
            demand = self.demands.get(hold.model)
            if demand is None or demand.priority >= priority or hold.replica not in self._running:
                continue
            if not sparing or self.room.staying[hold.model] - taken[hold.model] > demand.kept:
                taken[hold.model] += 1
                yield dearness_of(hold, demand.priority), hold


class _Victims:
    """The least costly way of one shape to displace others, as they become fewer.

    In one pass a scope never becomes cheaper, as places are only taken. So a scope is looked at only once it seems the
    cheapest, and again when it does so after others took of it.
    """

    def __init__(self, room: Room, gang: Gang, rule: Rule) -> None:
        self._room, self._gang, self._rule = room, gang, rule
        self._heap: list[tuple[tuple[int, tuple[Dearness, ...]], Scope]] = []

    def add(self, scope: Scope, least: Dearness) -> None:
        """One more scope; nobody in it is less dear than that."""
        heappush(self._heap, ((1, (least,)), scope))

    def cheapest(self) -> Way | None:
        """The way that displaces the fewest, and of these the least dear."""
        while self._heap:
            cost, scope = self._heap[0]
            way = find_way(self._room, scope, self._gang, self._rule)
            if way is None:
                heappop(self._heap)
            elif way.cost == cost:
                return way
            else:
                heapreplace(self._heap, (way.cost, scope))
        return None


def _nobody(_: Iterable[Hold]) -> Iterable[tuple[Dearness, Hold]]:
    return ()
