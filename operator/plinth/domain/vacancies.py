"""How many more replicas the pools have room for, while models choose among them: an estimate, `placing` gives places.

Nodes are counted by what they have free, so a question takes as long as there are sizes of gaps, whatever the fleet.
What a model is to get is taken off at once: the next one that chooses sees what is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from plinth.domain.fleet import Needs, Node, Slot
from plinth.domain.pools import Pool


class Vacancies:
    """The gaps of every pool; those of one are counted when it is first asked about."""

    def __init__(self, slots: Iterable[Slot]) -> None:
        self._slots = tuple(slots)
        self._held: Counter[tuple[str, bool]] | None = None
        """By node, and whether it is accelerators or bytes of memory."""
        self._gaps: dict[str, Counter[int]] = {}
        """By pool: how many nodes have so much free."""
        self._taken: dict[str, list[tuple[Needs, int]]] = {}
        """By pool, what was taken before anybody asked."""

    def count(self, pool: Pool, needs: Needs) -> int:
        """For how many replicas of these needs there is room."""
        gaps, size = self._gaps_of(pool), _size(needs)
        if needs.nodes > 1:
            return sum(nodes for free, nodes in gaps.items() if free >= size) // needs.nodes
        return sum(nodes * (free // size) for free, nodes in gaps.items() if free >= size)

    def take(self, pool: Pool, needs: Needs, replicas: int) -> None:
        """So many replicas are to go there, each into the smallest gap that takes it."""
        if pool.name not in self._gaps:
            self._taken.setdefault(pool.name, []).append((needs, replicas))
            return
        gaps, size = self._gaps[pool.name], _size(needs)
        for _ in range(replicas * needs.nodes):
            gap = min((free for free, nodes in gaps.items() if nodes and free >= size), default=None)
            if gap is None:
                return
            gaps[gap] -= 1
            gaps[gap - size] += 1

    def _gaps_of(self, pool: Pool) -> Counter[int]:
        found = self._gaps.get(pool.name)
        if found is None:
            held = self._held_by_node()
            free = (_whole(pool, node) - held[node.node_id, pool.is_cpu] for node in pool.nodes)
            found = self._gaps[pool.name] = Counter(free)
            for needs, replicas in self._taken.pop(pool.name, ()):
                self.take(pool, needs, replicas)
        return found

    def _held_by_node(self) -> Counter[tuple[str, bool]]:
        if self._held is None:
            self._held = Counter()
            for slot in self._slots:
                for node_id in slot.nodes:
                    self._held[node_id, slot.needs.accelerators == 0] += _size(slot.needs)
        return self._held


def _whole(pool: Pool, node: Node) -> int:
    return pool.usable_memory_bytes(node) if pool.is_cpu else node.accelerators


def _size(needs: Needs) -> int:
    """Of one node: accelerators, or bytes of its memory."""
    return needs.accelerators or needs.memory_bytes
