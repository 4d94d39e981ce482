"""Places for many replicas on what is free: the largest first, each where it fits best, then what that got wrong mended.

Only replicas that this pass placed are ever placed anew: they do not run yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from plinth.domain.placing.clearing import Dearness, Rule, find_way, scopes_of
from plinth.domain.placing.demands import Demand, Gang, Option
from plinth.domain.placing.finding import find_place
from plinth.domain.placing.hosts import Hold, Place
from plinth.domain.placing.room import Room

ATTEMPTS = 8
"""How many ways or hosts are tried in vain before mending is given up: it bounds the work of a pass."""
TRIALS = 48
"""How many ways one mending tries in all, those of whom makes room in turn included."""
DEPTH = 3
"""Who makes room may have others make room in turn: so often."""
NO_CHOICE = 2**62
"""What is lost by a second choice where there is none."""


class Wanted(NamedTuple):
    """One replica without a place."""

    replica: str
    ordinal: int
    """How many of its model there are before it."""
    demand: Demand

    @property
    def shapes(self) -> tuple[tuple[str, Gang], ...]:
        """What would do, whatever it costs: where one finds nothing, nobody with the same does."""
        return tuple(sorted((option.pool, option.gang) for option in self.demand.options))

    @property
    def least(self) -> int:
        """Accelerators that it takes at least, those of shares not counted: nothing is mended where fewer are free."""
        return min(gang.total if gang.is_whole else 0 for _, gang, _ in self.demand.options)

    @property
    def is_needed(self) -> bool:
        """Whether its model needs it; else only the load asks for it."""
        return self.ordinal < self.demand.kept

    @property
    def by_right(self) -> tuple[int, bool, bool, bool, float, str, int]:
        """Whose turn it is: by priority, then what is needed, of that what makes a running model whole.

        Then every model's first replica, then the model that was there first.
        """
        demand, ordinal = self.demand, self.ordinal
        rank = (not self.is_needed, not demand.runs, ordinal > 0)
        return (-demand.priority, *rank, demand.turn, demand.model, ordinal)

    @property
    def by_size(self) -> tuple[int, int, int, int, float, str, int]:
        """The hardest to place first: large parts, many of them, then those that lose most by their second choice."""
        demand, options = self.demand, self.demand.options
        gang = options[0].gang
        loss = options[1].price - options[0].price if len(options) > 1 else NO_CHOICE
        return (
            *(-gang.accelerators, -gang.parts, -gang.share),
            *(-loss, demand.turn, demand.model, self.ordinal),
        )

    def at(self, option: Option, place: Place) -> Hold:
        """What it holds there."""
        return Hold(self.replica, self.demand.model, option.pool, option.gang, place)


class Packing:
    """The replicas that one pass places; those that have a place are held in the room."""

    def __init__(self, room: Room, wanted: Iterable[Wanted]) -> None:
        self.room = room
        self.wanted: Mapping[str, Wanted] = {each.replica: each for each in wanted}
        self.settled: set[str] = set()
        """Those for whom others yielded: they are not placed anew."""
        self._trials = 0

    def pack(self, wanted: Iterable[Wanted]) -> bool:
        """Place all of them, or none."""
        mark = self.room.mark()
        for each in sorted(wanted, key=lambda one: one.by_size):
            if not self.place(each):
                self.room.undo_to(mark)
                return False
        return True

    def place(self, wanted: Wanted) -> bool:
        """Place one, others of this pass elsewhere if need be."""
        self._trials = TRIALS
        return self._fit(wanted) or self._mend(wanted, DEPTH)

    def tidy(self) -> None:
        """Empty hosts that only new replicas are on, where these find room on others: fewer hosts are begun."""
        new = (self.room.holds[name] for name in self.wanted if name in self.room.holds)
        hosts = {host for hold in new for host in _hosts_of(hold)}
        begun = [self.room.stands[name] for name in hosts if self._is_begun(name)]
        begun.sort(key=lambda each: (-each.host.standing, len(each.free) - each.host_free, each.host.name))
        vain = 0
        for stand in begun:
            vain = 0 if self._vacate(stand.host.name) else vain + 1
            if vain == ATTEMPTS:
                return

    def _fit(self, wanted: Wanted, avoid: str = "") -> bool:
        """Place one on what is free: by the first of its options that has room."""
        for option in wanted.demand.options:
            place = find_place(self.room, option, wanted.demand.model, avoid=avoid)
            if place is not None:
                self.room.put(wanted.at(option, place))
                return True
        return False

    def _mend(self, wanted: Wanted, depth: int) -> bool:
        """Place one where others of this pass are that fit elsewhere."""
        room, mark = self.room, self.room.mark()
        if room.most_free < wanted.least:
            return False
        rule = Rule(self._newcomers, awaits_leaving=False, few=False)
        for option in wanted.demand.options:
            for scope in list(islice(scopes_of(room, option), ATTEMPTS)):
                way = find_way(room, scope, option.gang, rule) if self._trials else None
                if way is not None:
                    self._trials -= 1
                    for goer in way.goers:
                        room.lift(goer.replica)
                    room.put(wanted.at(option, way.place))
                    if self._fit_all(way.goers, depth=depth - 1):
                        return True
                    room.undo_to(mark)
        return False

    def _newcomers(self, holds: Iterable[Hold]) -> Iterator[tuple[Dearness, Hold]]:
        """Those with a choice go more easily than those without, small ones more easily than large ones."""
        for hold in holds:
            wanted = self.wanted.get(hold.replica)
            if wanted is not None and hold.replica not in self.settled:
                has_no_choice = len(wanted.demand.options) == 1
                yield (has_no_choice, hold.gang.total * hold.gang.share), hold

    def _fit_all(self, holds: Iterable[Hold], *, avoid: str = "", depth: int = 0) -> bool:
        again = sorted((self.wanted[hold.replica] for hold in holds), key=lambda each: each.by_size)
        return all(self._fit(each, avoid) or (depth > 0 and self._mend(each, depth)) for each in again)

    def _is_begun(self, host: str) -> bool:
        """Whether there is something on it, all of it new, and nothing that is better apart."""
        holds = self.room.stands[host].holds
        return bool(holds) and all(
            replica in self.wanted and not hold.gang.spread for replica, (hold, _) in holds.items()
        )

    def _vacate(self, host: str) -> bool:
        """Put what is on a host elsewhere, if that begins fewer accelerators and costs no more."""
        room, mark = self.room, self.room.mark()
        if not self._is_begun(host):
            return False
        before = [hold for hold, _ in room.stands[host].holds.values()]
        for hold in before:
            room.lift(hold.replica)
        empty = {name for hold in before for name in _hosts_of(hold) if not room.stands[name].holds}
        if self._fit_all(before, avoid=host):
            after = [room.holds[hold.replica] for hold in before]
            moved = {hold.replica for hold in after}
            begun = {
                name for hold in after for name in _hosts_of(hold) if room.stands[name].holds.keys() <= moved
            }
            if self._size(begun) < self._size(empty) and self._price(after) <= self._price(before):
                return True
        room.undo_to(mark)
        return False

    def _size(self, hosts: Iterable[str]) -> int:
        return sum(len(self.room.stands[name].free) for name in hosts)

    def _price(self, holds: Iterable[Hold]) -> int:
        """What the replicas cost where they are."""
        return sum(
            option.price
            for hold in holds
            for option in self.wanted[hold.replica].demand.options
            if (option.pool, option.gang) == (hold.pool, hold.gang)
        )


def _hosts_of(hold: Hold) -> set[str]:
    return {part.host for part in hold.place}
