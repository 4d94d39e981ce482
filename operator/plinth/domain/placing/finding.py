"""Where one replica fits best among what is free: the smallest gap that takes it, what is there before what must come.

A gang of several parts goes to one host, else to one rack, else anywhere in the pool, as far as it allows; in each to
as few link domains as can be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, groupby

from plinth.domain.placing.demands import Gang, Near, Option
from plinth.domain.placing.hosts import Part, Place, Standing
from plinth.domain.placing.room import Room
from plinth.domain.placing.shelves import Aisle, DomainKey, PoolShelves
from plinth.domain.placing.stands import Stand


def find_place(room: Room, option: Option, model: str, *, avoid: str = "") -> Place | None:
    """The best place for one replica of a model, not on the host to avoid; None where no whole replica fits."""
    pool = room.pools.get(option.pool)
    return None if pool is None else _Search(room, pool, option.gang, model, avoid).run()


class _Search:
    """One replica looking for a place. What it tries is given back."""

    def __init__(self, room: Room, pool: PoolShelves, gang: Gang, model: str, avoid: str) -> None:
        self.room, self.pool, self.gang, self.model, self.avoid = room, pool, gang, model, avoid
        self.used: set[tuple[str, int]] = set()
        """Link domains that have parts of it already: no accelerator may serve two of them."""

    def run(self) -> Place | None:
        gang = self.gang
        if gang.spread:
            return self._apart()
        for standing in Standing:
            if gang.parts == 1:
                found = self._best(self.pool.all, standing, 1)
                place = found and tuple(found[0].parts(found[1], gang, 1))
            else:
                place = self._together(standing)
            if place:
                return place
        return None

    def _apart(self) -> Place | None:
        """On the host with the fewest of its siblings, then on the one with most to spare."""
        best: tuple[tuple[int, int, int, str], Stand] | None = None
        for name in self.pool.all.hosts:
            stand = self.room.stands[name]
            if name != self.avoid and stand.capacity(0, self.gang) >= self.gang.parts:
                key = (int(stand.host.standing), stand.siblings(self.model), -max(stand.free), name)
                if best is None or key < best[0]:
                    best = (key, stand)
        return best and tuple(best[1].parts(0, self.gang, self.gang.parts))

    def _best(self, aisle: Aisle, standing: int, count: int) -> tuple[Stand, int] | None:
        """The link domain of a standing that so many parts fit best, as host and number."""
        gang = self.gang
        if gang.is_whole:
            return self._fewest_siblings(aisle.domains.fullest(standing, count * gang.accelerators))
        started = (
            DomainKey(standing, key.free, 0, key.host, self.room.stands[key.host].number_of[key.accelerator])
            for key in aisle.shared.fullest(standing, gang.share)
        )
        for key in chain(started, aisle.domains.fullest(standing, 1)):
            stand = self.room.stands[key.host]
            if key.host == self.avoid or (key.host, key.number) in self.used:
                continue
            if stand.capacity(key.number, gang) >= count:
                return stand, key.number
        return None

    def _fewest_siblings(self, keys: Iterable[DomainKey]) -> tuple[Stand, int] | None:
        """Of those that fit equally well, the first with the fewest replicas of the model on its host."""
        for _, equals in groupby(keys, key=_gap):
            best: tuple[int, Stand, int] | None = None
            for key in equals:
                if key.host == self.avoid:
                    continue
                stand = self.room.stands[key.host]
                siblings = stand.siblings(self.model)
                if siblings == 0:
                    return stand, key.number
                if best is None or siblings < best[0]:
                    best = (siblings, stand, key.number)
            if best is not None:
                return best[1], best[2]
        return None

    def _together(self, limit: int) -> Place | None:
        """All parts as near to one another as there is room, on hosts of a standing up to the limit."""
        place = self._on_one_host(limit)
        if place is None and self.gang.within >= Near.RACK:
            total = self.gang.total if self.gang.is_whole else 0
            racks = sorted(
                (aisle.free, name) for name, aisle in self.pool.racks.items() if aisle.free >= total
            )
            tried = (self._share_out(self.pool.racks[name], limit) for _, name in racks)
            place = next((each for each in tried if each), None)
        if place is None and self.gang.within >= Near.POOL:
            place = self._share_out(self.pool.all, limit)
        return place

    def _on_one_host(self, limit: int) -> Place | None:
        gang = self.gang
        least = gang.total if gang.is_whole else 0
        for standing in range(limit + 1):
            for key in self.pool.hosts.fullest(standing, least):
                stand = self.room.stands[key.host]
                able = [(stand.capacity(number, gang), -number) for number in range(len(stand.domains))]
                if key.host != self.avoid and sum(each for each, _ in able) >= gang.parts:
                    return tuple(_fill(stand, gang, sorted(able, reverse=True)))
        return None

    def _share_out(self, aisle: Aisle, limit: int) -> Place | None:
        """The parts in as few of the aisle's link domains as can be: always the smallest that takes most of the rest."""
        parts: list[Part] = []
        while len(parts) < self.gang.parts:
            found = self._for_most(aisle, limit, self.gang.parts - len(parts))
            if found is None:
                break
            parts += found
            for part in found:
                self.room.occupy(part, self.gang.share)
        for part in parts:
            self.room.occupy(part, -self.gang.share)
        self.used.clear()
        return tuple(parts) if len(parts) == self.gang.parts else None

    def _for_most(self, aisle: Aisle, limit: int, wanted: int) -> list[Part] | None:
        """As many of the wanted parts as one link domain takes."""
        gang = self.gang
        for standing in range(limit + 1):
            largest = next(iter(aisle.domains.roomiest(standing)), None)
            most = largest.free // gang.accelerators if largest and gang.is_whole else 1
            for count in range(min(wanted, most), 0, -1):
                found = self._best(aisle, standing, count)
                if found is not None:
                    stand, number = found
                    self.used.add((stand.host.name, number))
                    return stand.parts(number, gang, min(wanted, stand.capacity(number, gang)))
        return None


def _gap(key: DomainKey) -> tuple[int, int]:
    return key.free, key.host_free


def _fill(stand: Stand, gang: Gang, able: Iterable[tuple[int, int]]) -> Iterator[Part]:
    """All parts on one host, its roomiest link domains first."""
    left = gang.parts
    for capacity, minus in able:
        count = min(left, capacity)
        yield from stand.parts(-minus, gang, count)
        left -= count
