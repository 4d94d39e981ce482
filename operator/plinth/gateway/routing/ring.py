"""A consistent-hash ring with bounded loads: where prompts with a common start meet, with nothing remembered. Pure.

Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads" (arXiv 1608.01350). The same in every
process and after every restart, which beliefs are not; a replica more or less moves 1/n of the prompts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final

from plinth.gateway.routing.choice import Standing

VIRTUAL_NODES: Final = 256
LOAD_BOUND: Final = 1.25
"""A replica is passed over above so many times the mean number of requests."""
KEY_BLOCKS: Final = 4
"""Some 1,000 tokens: fewer, and all that share a system prompt would meet at one replica."""


class PrefixRing:
    """A fixed set of slots on a ring; made anew when the set changes."""

    def __init__(self, slots: Iterable[str]) -> None:
        points = sorted((_point(f"{slot}#{node}"), slot) for slot in slots for node in range(VIRTUAL_NODES))
        self._points = [point for point, _ in points]
        self._slots = [slot for _, slot in points]

    def choose(self, roomy: Sequence[Standing], blocks: Sequence[int]) -> Standing:
        """The first replica from the prompt's place on that is not overloaded; one of `roomy`, which has some."""
        by_slot = {item.slot: item for item in roomy}
        requests = sum(item.in_flight + item.in_flight_elsewhere for item in roomy)
        most = LOAD_BOUND * (requests + 1) / len(roomy)
        for slot in self._from(_spread(blocks[min(len(blocks), KEY_BLOCKS) - 1])):
            found = by_slot.get(slot)
            if found is not None and found.in_flight + found.in_flight_elsewhere <= most:
                return found
        return min(roomy, key=lambda item: (item.in_flight + item.in_flight_elsewhere, item.slot))

    def _from(self, place: int) -> Iterable[str]:
        start = bisect_right(self._points, place)
        for index in range(start, start + len(self._slots)):
            yield self._slots[index % len(self._slots)]


def _point(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big")


def _spread(block: int) -> int:
    """A block's name as a place: CRCs of like prompts lie together, Fibonacci hashing (Knuth, TAOCP 3, 6.4) parts them."""
    return block * 2_654_435_769 & 0xFFFFFFFF
