"""Hosts and link domains in the order in which they are filled, so that nobody need look at all of them.

A key begins with a host's standing and with how much is free there, and ends in names: the order depends on nothing
that happened before.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar


class DomainKey(NamedTuple):
    """A link domain by the whole accelerators that are free in it."""

    standing: int
    free: int
    host_free: int
    """Of the whole host: of two domains that fit equally well, that of the fuller host comes first."""
    host: str
    number: int


class HostKey(NamedTuple):
    """A host by its whole free accelerators."""

    standing: int
    free: int
    host: str


class ShareKey(NamedTuple):
    """An accelerator of which a share is held, by what is free of it."""

    standing: int
    free: int
    host: str
    accelerator: int


KeyT = TypeVar("KeyT", DomainKey, HostKey, ShareKey)


class Shelf(Generic[KeyT]):
    """Keys in order."""

    def __init__(self) -> None:
        self._keys: list[KeyT] = []

    def __len__(self) -> int:
        return len(self._keys)

    def move(self, before: Iterable[KeyT], after: Iterable[KeyT]) -> None:
        """These keys are gone, and those have come."""
        for key in before:
            del self._keys[bisect_left(self._keys, key)]
        for key in after:
            insort(self._keys, key)

    def fullest(self, standing: int, least: int) -> Iterator[KeyT]:
        """Those of a standing that have so much free or more, least first. The shelf must not change meanwhile."""
        keys = self._keys
        for index in range(bisect_left(keys, (standing, least)), len(keys)):
            if keys[index][0] != standing:
                return
            yield keys[index]

    def roomiest(self, standing: int) -> Iterator[KeyT]:
        """Those of a standing, most free first."""
        keys = self._keys
        for index in range(bisect_left(keys, (standing + 1,)) - 1, -1, -1):
            if keys[index][0] != standing:
                return
            yield keys[index]


class Aisle:
    """The shelves of a pool, or of one of its racks."""

    def __init__(self) -> None:
        self.domains = Shelf[DomainKey]()
        self.shared = Shelf[ShareKey]()
        self.free = 0
        """Whole accelerators, of all standings."""
        self.hosts = set[str]()


class PoolShelves:
    """A pool: all of it, each rack and each host."""

    def __init__(self) -> None:
        self.all = Aisle()
        self.racks: dict[str, Aisle] = {}
        self.hosts = Shelf[HostKey]()

    def aisles(self, rack: str) -> tuple[Aisle, Aisle]:
        """Those that a host of the rack stands in."""
        found = self.racks.get(rack)
        if found is None:
            found = self.racks[rack] = Aisle()
        return self.all, found
