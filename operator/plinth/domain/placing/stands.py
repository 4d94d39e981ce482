"""One host as it is now: what is free of each accelerator, and who holds the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from plinth.domain.placing.demands import Gang
from plinth.domain.placing.hosts import Hold, Host, Part
from plinth.domain.placing.shelves import DomainKey, HostKey, ShareKey


class Stand:
    """A host and its holds. What is promised twice, to one that leaves and to one that follows, is free less than 0."""

    __slots__ = ("domains", "free", "holds", "host", "host_free", "number_of", "whole_free")

    def __init__(self, host: Host) -> None:
        self.host = host
        starts = [sum(host.domains[:number]) for number in range(len(host.domains))]
        self.domains = tuple(
            range(start, start + size) for start, size in zip(starts, host.domains, strict=True)
        )
        self.number_of = tuple(number for number, domain in enumerate(self.domains) for _ in domain)
        """The link domain of each accelerator."""
        self.free = [host.whole] * len(self.number_of)
        self.whole_free = list(host.domains)
        """Of each link domain, accelerators that nobody holds anything of."""
        self.host_free = len(self.free)
        self.holds: dict[str, tuple[Hold, tuple[int, ...]]] = {}
        """By replica, with the accelerators that it holds here."""

    def change(self, accelerators: Iterable[int], amount: int) -> None:
        """So much more is free of each of the accelerators; less, where it is negative."""
        whole = self.host.whole
        for each in accelerators:
            before = self.free[each]
            after = self.free[each] = before + amount
            if (before == whole) != (after == whole):
                change = 1 if after == whole else -1
                self.whole_free[self.number_of[each]] += change
                self.host_free += change

    def domain_keys(self) -> Iterator[DomainKey]:
        """Where its link domains stand now."""
        standing, name, host_free = int(self.host.standing), self.host.name, self.host_free
        for number, free in enumerate(self.whole_free):
            yield DomainKey(standing, free, host_free, name, number)

    def host_key(self) -> HostKey:
        """Where it stands now."""
        return HostKey(int(self.host.standing), self.host_free, self.host.name)

    def share_keys(self, accelerators: Iterable[int]) -> Iterator[ShareKey]:
        """Where those of the accelerators stand of which a share is held."""
        for each in accelerators:
            if 0 < self.free[each] < self.host.whole:
                yield ShareKey(int(self.host.standing), self.free[each], self.host.name, each)

    def siblings(self, model: str) -> int:
        """How many replicas of the model are here."""
        return sum(1 for hold, _ in self.holds.values() if hold.model == model)

    def capacity(self, number: int, gang: Gang) -> int:
        """How many parts of the gang a link domain has room for, no accelerator for two of them."""
        if gang.is_whole:
            return self.whole_free[number] // gang.accelerators
        return sum(1 for each in self.domains[number] if self.free[each] >= gang.share) // gang.accelerators

    def parts(self, number: int, gang: Gang, count: int) -> list[Part]:
        """So many parts of the gang in a link domain that has room for them, on the accelerators that fit best."""
        able = sorted(
            (self.free[each], each) for each in self.domains[number] if self.free[each] >= gang.share
        )
        size = gang.accelerators
        return [
            Part(self.host.name, tuple(sorted(each for _, each in able[at : at + size])))
            for at in range(0, count * size, size)
        ]
