"""What each replica's prefix cache should hold, by the requests that this gateway sent there. Pure.

One memory for all replicas of a model. A block's name leads to a bit mask of the replicas that should hold it, so
that one walk along a prompt's blocks says for every replica how far its cache reaches. Each replica's blocks are
forgotten as the engine forgets them: the least recently used first, the end of a prompt before its start.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

MOST_BLOCKS: Final = 32_768
"""Of all replicas of a model together, 8 million tokens in some 10 MiB of memory: a bound for the gateway, whatever the replicas hold."""


class CacheBeliefs:
    """A bounded memory of who holds which block."""

    def __init__(self, most_blocks: int = MOST_BLOCKS) -> None:
        self._most_blocks = most_blocks
        self._holders: dict[int, int] = {}
        self._held: dict[int, OrderedDict[int, None]] = {}
        """By bit: block names, least recently used first."""
        self._capacity: dict[int, int] = {}
        self._room: dict[int, int] = {}
        """By bit as well: blocks that are remembered at most."""

    def join(self, capacity: int) -> int:
        """A replica comes, its cache empty, with room for so many blocks; returns the bit that it is known by."""
        bit = 1
        while bit in self._held:
            bit <<= 1
        self._held[bit] = OrderedDict()
        self._capacity[bit] = capacity
        self._share_out()
        return bit

    def leave(self, bit: int) -> None:
        """A replica goes, or has started anew: nothing that it held counts any more."""
        for block in self._held.pop(bit):
            self._drop(block, bit)
        del self._capacity[bit]
        self._share_out()

    def reach(self, blocks: Sequence[int]) -> dict[int, int]:
        """How many of a prompt's first blocks each replica should hold, by bit; those that hold none are left out."""
        found: dict[int, int] = {}
        if not blocks:
            return found
        holders = self._holders
        mask = holders.get(blocks[0], 0)
        depth = 0
        for block in blocks:
            still = mask & holders.get(block, 0)
            if still != mask:
                self._note(found, mask ^ still, depth)
                mask = still
            if not mask:
                return found
            depth += 1
        self._note(found, mask, depth)
        return found

    def remember(self, bit: int, blocks: Sequence[int]) -> None:
        """A replica was sent a prompt: it will hold these blocks, the prompt's start being the last to go."""
        held, holders = self._held[bit], self._holders
        for block in reversed(list(blocks)):  # of a list it needs no iterator
            if block in held:
                held.move_to_end(block)
            else:
                held[block] = None
                holders[block] = holders.get(block, 0) | bit
        if len(held) > self._room[bit]:
            self._trim(bit)

    def count(self, bit: int) -> int:
        """Blocks that a replica should hold."""
        return len(self._held[bit])

    def _share_out(self) -> None:
        share = self._most_blocks // max(1, len(self._held))
        self._room = {bit: min(capacity, share) for bit, capacity in self._capacity.items()}
        for bit in self._held:
            self._trim(bit)

    def _trim(self, bit: int) -> None:
        held, most = self._held[bit], self._room[bit]
        while len(held) > most:
            block, _ = held.popitem(last=False)
            self._drop(block, bit)

    def _drop(self, block: int, bit: int) -> None:
        left = self._holders[block] & ~bit
        if left:
            self._holders[block] = left
        else:
            del self._holders[block]

    @staticmethod
    def _note(found: dict[int, int], bits: int, depth: int) -> None:
        while bits and depth:
            lowest = bits & -bits
            found[lowest] = depth
            bits ^= lowest
