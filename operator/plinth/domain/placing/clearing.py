"""Which holds would have to go so that one replica fits: the fewest, of these the least dear. It changes nothing.

Mending, moves and displacement differ only in who may go and how dear that is: a rule says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from plinth.domain.placing.demands import Gang, Near, Option
from plinth.domain.placing.hosts import Hold, Part, Place, Standing
from plinth.domain.placing.room import Room
from plinth.domain.placing.stands import Stand

Dearness = tuple[float, ...]
"""How much a hold is to be spared, compared in order: the least dear go first."""


def dearness_of(hold: Hold, priority: float) -> Dearness:
    """A lower priority goes first, of these the youngest, of these the smallest."""
    return (priority, -hold.since, hold.gang.total)


class Rule(NamedTuple):
    """Who may go."""

    choose: Callable[[Iterable[Hold]], Iterable[tuple[Dearness, Hold]]]
    """Of the holds of one link domain that are not leaving, those that may go, all at once if need be."""
    awaits_leaving: bool = True
    """Whether the place of those who leave anyway counts as free."""
    few: bool = True
    """Whether few large ones go rather than many less dear ones."""


class Way(NamedTuple):
    """A place, and who must go for it."""

    cost: tuple[int, tuple[Dearness, ...]]
    """How many must go, then how dear they are, the dearest first."""
    place: Place
    goers: tuple[Hold, ...]


Scope = tuple[str, ...]
"""Hosts that may share the parts of one replica."""


def scopes_of(room: Room, option: Option) -> Iterator[Scope]:
    """Every scope of a pool, those with most free first: each host, else each rack and then, where allowed, all."""
    pool = room.pools.get(option.pool)
    if pool is None:
        return
    if is_on_one_host(option.gang):
        for standing in Standing:
            for key in pool.hosts.roomiest(standing):
                yield (key.host,)
        return
    for _, rack in sorted((-aisle.free, rack) for rack, aisle in pool.racks.items()):
        yield tuple(sorted(pool.racks[rack].hosts))
    if option.gang.within is Near.POOL:
        yield tuple(sorted(pool.all.hosts))


def scopes_with(room: Room, option: Option, hosts: frozenset[str]) -> Iterable[Scope]:
    """The scopes of a pool that have one of these hosts."""
    if is_on_one_host(option.gang):
        return [(host,) for host in sorted(hosts & room.hosts_of(option.pool))]
    return (scope for scope in scopes_of(room, option) if not hosts.isdisjoint(scope))


def is_on_one_host(gang: Gang) -> bool:
    """Whether all parts must be on one host."""
    return gang.parts == 1 or gang.within is Near.HOST


def find_way(room: Room, scope: Scope, gang: Gang, rule: Rule) -> Way | None:
    """The way within a scope: the parts one after the other, each where least must go."""
    mark, parts, goers, dear = room.mark(), list[Part](), list[Hold](), list[Dearness]()
    for _ in range(gang.parts):
        ways = _domain_ways(room, scope, gang, rule, without=parts)
        way = min(ways, key=lambda each: each.cost, default=None)
        if way is None:
            break
        parts += way.place
        goers += way.goers
        dear += way.cost[1]
        if len(parts) < gang.parts:
            for goer in way.goers:
                room.put(goer._replace(leaving=True))
            room.occupy(way.place[0], gang.share)
    for part in parts[: gang.parts - 1]:
        room.occupy(part, -gang.share)
    room.undo_to(mark)
    if len(parts) < gang.parts:
        return None
    return Way((len(goers), tuple(sorted(dear, reverse=True))), tuple(parts), tuple(goers))


def _domain_ways(
    room: Room, scope: Scope, gang: Gang, rule: Rule, *, without: Iterable[Part]
) -> Iterator[Way]:
    """The way of each link domain, for one part; no accelerator is used twice."""
    for name in scope:
        stand = room.stands[name]
        used = {each for part in without if part.host == name for each in part.accelerators}
        for domain in stand.domains:
            if len(domain) >= gang.accelerators and stand.host.whole >= gang.share:
                way = _Clearing(stand, domain, gang, used).run(rule)
                if way is not None:
                    yield way


class _Clearing:
    """One link domain, and what would be free of it as holds go or stay after all."""

    def __init__(self, stand: Stand, domain: Iterable[int], gang: Gang, used: set[int]) -> None:
        self.stand, self.gang = stand, gang
        self.free = {each: stand.free[each] for each in domain if each not in used}
        here = ((hold, [each for each in every if each in self.free]) for hold, every in stand.holds.values())
        self.here = {hold.replica: (hold, accelerators) for hold, accelerators in here if accelerators}

    def run(self, rule: Rule) -> Way | None:
        """Who must go, and the accelerators that are then free."""
        if rule.awaits_leaving:
            for hold, _ in self.here.values():
                if hold.leaving:
                    self._let(hold.replica, go=True)
        staying = (hold for hold, _ in self.here.values() if not hold.leaving)
        dear = (
            {} if self._is_enough() else {hold.replica: dearness for dearness, hold in rule.choose(staying)}
        )
        for name in dear:
            self._let(name, go=True)
        if not self._is_enough():
            return None
        goers = self._exchanged(self._spared(dear, few=rule.few), dear)
        able = sorted(
            (-self.stand.free[each], each) for each in self.free if self.free[each] >= self.gang.share
        )
        part = Part(self.stand.host.name, tuple(sorted(each for _, each in able[: self.gang.accelerators])))
        cost = (len(goers), tuple(sorted((dear[name] for name in goers), reverse=True)))
        return Way(cost, (part,), tuple(self.here[name][0] for name in sorted(goers)))

    def _spared(self, dear: Mapping[str, Dearness], *, few: bool) -> set[str]:
        """Those who need go after all, where all who may do so."""
        goers = set(dear)
        dearest_first = sorted(dear, key=lambda name: (dear[name], name), reverse=True)
        for name in sorted(dearest_first, key=self._size) if few else dearest_first:
            self._let(name, go=False)
            if self._is_enough():
                goers.remove(name)
            else:
                self._let(name, go=True)
        return goers

    def _exchanged(self, goers: set[str], dear: Mapping[str, Dearness]) -> set[str]:
        """As many goers, but none for whom a less dear one would do."""
        for name in sorted(goers, key=lambda each: (dear[each], each), reverse=True):
            for other in sorted(dear.keys() - goers, key=lambda each: (dear[each], each)):
                if dear[other] >= dear[name]:
                    break
                self._let(name, go=False)
                self._let(other, go=True)
                if self._is_enough():
                    goers = (goers - {name}) | {other}
                    break
                self._let(other, go=False)
                self._let(name, go=True)
        return goers

    def _let(self, name: str, *, go: bool) -> None:
        hold, accelerators = self.here[name]
        for each in accelerators:
            self.free[each] += hold.gang.share if go else -hold.gang.share

    def _size(self, name: str) -> int:
        hold, accelerators = self.here[name]
        return hold.gang.share * len(accelerators)

    def _is_enough(self) -> bool:
        share = self.gang.share
        return sum(1 for free in self.free.values() if free >= share) >= self.gang.accelerators
