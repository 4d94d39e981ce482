"""Who holds what on which host, kept from pass to pass: only what changed is looked at, and no result depends on it.

All of it follows from the hosts and holds given last. What a plan adds stays until the next `update` finds it, or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from plinth.domain.placing.hosts import Hold, Host, Part
from plinth.domain.placing.shelves import PoolShelves
from plinth.domain.placing.stands import Stand


class Room:
    """The hosts, their holds and the order in which they are filled."""

    def __init__(self) -> None:
        self.stands: dict[str, Stand] = {}
        self.pools: dict[str, PoolShelves] = {}
        self.holds: dict[str, Hold] = {}
        self.staying: Counter[str] = Counter()
        """Replicas of each model that are not leaving."""
        self.leaving: set[str] = set()
        """Replicas whose place will be free."""
        self._undo: list[tuple[str, Hold | None]] = []
        """Replicas with what they held before, oldest change first."""

    def update(self, hosts: Mapping[str, Host], holds: Mapping[str, Hold]) -> None:
        """What there is now, hosts and holds by name. Places on hosts that are gone hold nothing."""
        changed = {name for name, stand in self.stands.items() if hosts.get(name) != stand.host}
        added = {name for name in hosts if name not in self.stands or name in changed}
        anew = changed | added
        for name, hold in list(self.holds.items()):
            if name not in holds or (anew and any(part.host in anew for part in hold.place)):
                self.lift(name)
        for name in changed:
            self._remove(self.stands[name])
        for name in added:
            self._add(hosts[name])
        for name, hold in holds.items():
            known = self.holds.get(name)
            if known is not hold and known != hold:
                self.put(hold)
        self._undo.clear()

    def put(self, hold: Hold) -> None:
        """The replica holds this place, whatever it held before."""
        known = self.holds.get(hold.replica)
        self._undo.append((hold.replica, known))
        self._replace(known, hold)

    def lift(self, replica: str) -> None:
        """The replica holds nothing any more."""
        known = self.holds[replica]
        self._undo.append((replica, known))
        self._replace(known, None)

    @property
    def most_free(self) -> int:
        """Accelerators that could be free whole if shares were put together, or more: where hosts are in many pools."""
        return sum(pool.all.free + len(pool.all.shared) for pool in self.pools.values())

    def hosts_of(self, pool: str) -> frozenset[str]:
        """The names of a pool's hosts."""
        found = self.pools.get(pool)
        return frozenset(found.all.hosts) if found else frozenset()

    def mark(self) -> int:
        """The state as it is now, for `undo_to`."""
        return len(self._undo)

    def undo_to(self, mark: int) -> None:
        """Take back all that was put and lifted since."""
        while len(self._undo) > mark:
            replica, before = self._undo.pop()
            self._replace(self.holds.get(replica), before)

    @contextmanager
    def without(self, replicas: Iterable[str]) -> Iterator[Room]:
        """The room as it would be once these are gone, for the time of the `with`."""
        mark = self.mark()
        for replica in replicas:
            if replica in self.holds:
                self.lift(replica)
        try:
            yield self
        finally:
            self.undo_to(mark)

    def occupy(self, part: Part, share: int) -> None:
        """So much of each of the part's accelerators is held; given back where negative."""
        stand = self.stands.get(part.host)
        if stand is not None:
            accelerators = [each for each in part.accelerators if each < len(stand.free)]
            self._shift(stand, accelerators, -share)

    def waits_for(self, hold: Hold) -> tuple[str, ...]:
        """The leaving replicas whose place this one is to have."""
        found = set[str]()
        for part in hold.place:
            stand = self.stands[part.host]
            short = {each for each in part.accelerators if stand.free[each] < 0}
            found |= {
                other.replica
                for other, accelerators in stand.holds.values()
                if other.leaving and not short.isdisjoint(accelerators)
            }
        return tuple(sorted(found))

    def _replace(self, before: Hold | None, after: Hold | None) -> None:
        same = before is not None and after is not None and _amounts(before) == _amounts(after)
        if before is not None:
            self.staying[before.model] -= not before.leaving
            self._let_go(before, only_forget=same)
            self.leaving.discard(before.replica)
            del self.holds[before.replica]
        if after is not None:
            self.staying[after.model] += not after.leaving
            self._hand_over(after, only_note=same)
            self.holds[after.replica] = after
            if after.leaving:
                self.leaving.add(after.replica)

    def _let_go(self, hold: Hold, *, only_forget: bool) -> None:
        for part in hold.place:
            if part.host in self.stands:
                self.stands[part.host].holds.pop(hold.replica, None)
                if not only_forget:
                    self.occupy(part, -hold.gang.share)

    def _hand_over(self, hold: Hold, *, only_note: bool) -> None:
        for part in hold.place:
            if part.host in self.stands:
                holds = self.stands[part.host].holds
                others = holds[hold.replica][1] if hold.replica in holds else ()
                holds[hold.replica] = (hold, (*others, *part.accelerators))
                if not only_note:
                    self.occupy(part, hold.gang.share)

    def _shift(self, stand: Stand, accelerators: list[int], amount: int) -> None:
        """Change what is free, and put the host where it belongs from then on."""
        domains, host = list(stand.domain_keys()), stand.host_key()
        shares = list(stand.share_keys(accelerators))
        stand.change(accelerators, amount)
        now, host_now = list(stand.domain_keys()), stand.host_key()
        shares_now = list(stand.share_keys(accelerators))
        for name in stand.host.pools:
            pool = self.pools[name]
            if host != host_now:
                pool.hosts.move([host], [host_now])
            for aisle in pool.aisles(stand.host.rack):
                aisle.free += host_now.free - host.free
                aisle.domains.move(domains, now)
                aisle.shared.move(shares, shares_now)

    def _add(self, host: Host) -> None:
        stand = self.stands[host.name] = Stand(host)
        for name in host.pools:
            pool = self.pools.setdefault(name, PoolShelves())
            pool.hosts.move([], [stand.host_key()])
            for aisle in pool.aisles(host.rack):
                aisle.hosts.add(host.name)
                aisle.free += stand.host_free
                aisle.domains.move([], list(stand.domain_keys()))

    def _remove(self, stand: Stand) -> None:
        del self.stands[stand.host.name]
        for name in stand.host.pools:
            pool = self.pools[name]
            pool.hosts.move([stand.host_key()], [])
            for aisle in pool.aisles(stand.host.rack):
                aisle.hosts.remove(stand.host.name)
                aisle.free -= stand.host_free
                aisle.domains.move(list(stand.domain_keys()), [])
                aisle.shared.move(list(stand.share_keys(range(len(stand.free)))), [])


def _amounts(hold: Hold) -> tuple[object, ...]:
    return hold.place, hold.gang.share
