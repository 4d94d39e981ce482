"""Where new replicas go: whole replicas on one node each, onto what is free, never moving what runs.

A slot holds its place from the moment it is planned until Ray no longer lists it, so also while it drains or stops.

Accelerators are packed: the node with the fewest free accelerators that still holds the replica comes first, so that
whole nodes stay free for large shapes. CPU replicas are spread: they share a node's cores, so the node with the fewest
replicas of the same model comes first, then the one with the most free memory. The node's id ends every tie. In both
what is there comes before what must be brought up, and a worker that is on its way before one that is not.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from plinth.domain.fleet import Engine, ModelKey, Needs, Node, NodeState, Slot, SlotPhase
from plinth.domain.pools import Pool
from plinth.domain.quantities import format_bytes, plural


@dataclass(frozen=True, kw_only=True)
class Holding:
    """One replica's hold on a node."""

    model: ModelKey
    needs: Needs
    slot: str
    leaving: bool = False
    """It is on its way out: its place will be free soon."""


class Room:
    """Who holds what on each node. One is made for each pass; taking a place changes it."""

    def __init__(self, holdings: Mapping[str, tuple[Holding, ...]] | None = None) -> None:
        self._holdings = dict(holdings or {})
        self._taken: dict[str, Needs] = {}
        """What is held on each node in all, summed up when it is first asked for."""
        self._shelves: dict[tuple[str, Engine], _Shelf] = {}

    def on(self, node_id: str) -> tuple[Holding, ...]:
        """What is held on a node."""
        return self._holdings.get(node_id, ())

    def take(self, node_id: str, holding: Holding) -> None:
        """One more replica is on the node."""
        self._holdings[node_id] = (*self.on(node_id), holding)
        self._taken.pop(node_id, None)
        for shelf in self._shelves.values():
            shelf.put_back(node_id, self)

    def without(self, slots: Iterable[str]) -> Room:
        """The room once these slots are gone; another one."""
        gone = set(slots)
        return Room(
            {
                node: tuple(each for each in held if each.slot not in gone)
                for node, held in self._holdings.items()
            }
        )

    def leaving(self) -> frozenset[str]:
        """The slots that are on their way out."""
        return frozenset(each.slot for held in self._holdings.values() for each in held if each.leaving)

    def free_accelerators(self, node: Node) -> int:
        """Accelerators that nobody holds; negative where more was promised than there is."""
        return node.accelerators - self._held(node.node_id).accelerators

    def free_memory_bytes(self, pool: Pool, node: Node) -> int:
        """Host memory of the pool's share that nobody holds."""
        return pool.usable_memory_bytes(node) - self._held(node.node_id).memory_bytes

    def fits(self, pool: Pool, node: Node, needs: Needs) -> bool:
        """Whether one whole replica fits on the node now."""
        if needs.accelerators > 0 and needs.accelerators > self.free_accelerators(node):
            return False
        return needs.memory_bytes == 0 or needs.memory_bytes <= self.free_memory_bytes(pool, node)

    def shelf(self, pool: Pool, engine: Engine) -> _Shelf:
        """The pool's nodes with the engine, in the order in which they are filled."""
        found = self._shelves.get((pool.name, engine))
        if found is None:
            found = self._shelves[pool.name, engine] = _Shelf(pool.nodes_for(engine), self)
        return found

    def _held(self, node_id: str) -> Needs:
        held = self._taken.get(node_id)
        if held is None:
            on = self.on(node_id)
            held = self._taken[node_id] = Needs(
                accelerators=sum(each.needs.accelerators for each in on),
                memory_bytes=sum(each.needs.memory_bytes for each in on),
            )
        return held


class _Place(NamedTuple):
    """Where a node stands on its shelf."""

    standing: int
    """0: it is there; 1: a worker on its way; 2: one that nobody has asked for yet."""
    free: int
    node_id: str


class _Shelf:
    """A pool's accelerated nodes in the order in which they are filled, so that nobody need look at all of them."""

    def __init__(self, nodes: Iterable[Node], room: Room) -> None:
        self._nodes = {node.node_id: node for node in nodes}
        self._places = {node.node_id: _place(node, room) for node in self._nodes.values()}
        self._in_order = sorted(self._places.values())

    def put_back(self, node_id: str, room: Room) -> None:
        """What is held on the node has changed: it belongs elsewhere."""
        node = self._nodes.get(node_id)
        if node is not None:
            del self._in_order[bisect_left(self._in_order, self._places[node_id])]
            self._places[node_id] = _place(node, room)
            insort(self._in_order, self._places[node_id])

    def find(self, request: PlacementRequest, room: Room) -> Node | None:
        """The fullest node that holds the replica, what is there before what must be brought up."""
        for standing in range(3):
            able = self._places_from(standing, request.needs.accelerators)
            for _, equally_full in groupby(able, key=lambda place: place.free):
                node = _fewest_siblings((self._nodes[place.node_id] for place in equally_full), request, room)
                if node is not None:
                    return node
        return None

    def _places_from(self, standing: int, accelerators: int) -> Iterator[_Place]:
        """The places of one standing with so many accelerators free or more, fewest first."""
        first = bisect_left(self._in_order, _Place(standing, accelerators, ""))
        for index in range(first, len(self._in_order)):
            place = self._in_order[index]
            if place.standing != standing:
                return
            yield place


def _place(node: Node, room: Room) -> _Place:
    return _Place(_standing(node), room.free_accelerators(node), node.node_id)


def _standing(node: Node) -> int:
    if node.state is NodeState.PRESENT:
        return 0
    return 1 if node.worker else 2


def _fewest_siblings(nodes: Iterable[Node], request: PlacementRequest, room: Room) -> Node | None:
    """Of nodes in the order of their names, the first with the fewest replicas of the same model."""
    best: tuple[int, Node] | None = None
    for node in nodes:
        if not room.fits(request.pool, node, request.needs):
            continue
        siblings = _siblings(request, room, node)
        if siblings == 0:
            return node
        if best is None or siblings < best[0]:
            best = (siblings, node)
    return best[1] if best else None


def _siblings(request: PlacementRequest, room: Room, node: Node) -> int:
    return sum(1 for each in room.on(node.node_id) if each.model == request.model)


def room_of(slots: Iterable[Slot]) -> Room:
    """The room that the slots found leave, wherever they run or were told to run."""
    held: dict[str, list[Holding]] = {}
    for slot in sorted(slots, key=lambda each: each.name):
        stopping = slot.phase is SlotPhase.STOPPING
        holding = Holding(model=slot.name.model, needs=slot.needs, slot=str(slot.name), leaving=stopping)
        held.setdefault(slot.running_on or slot.node_id, []).append(holding)
    return Room({node_id: tuple(holdings) for node_id, holdings in held.items()})


@dataclass(frozen=True, kw_only=True)
class PlacementRequest:
    """One replica looking for a place."""

    model: ModelKey
    needs: Needs
    pool: Pool
    engine: Engine


def find_place(request: PlacementRequest, room: Room) -> Node | None:
    """The best node for one replica, or None when no node has a whole replica's room."""
    if request.needs.accelerators > 0:
        return room.shelf(request.pool, request.engine).find(request, room)
    able = [
        node
        for node in request.pool.nodes_for(request.engine)
        if room.fits(request.pool, node, request.needs)
    ]
    return min(able, key=lambda node: _spread(request, room, node), default=None)


def _spread(request: PlacementRequest, room: Room, node: Node) -> tuple[int, int, int, str]:
    free = room.free_memory_bytes(request.pool, node)
    return (_standing(node), _siblings(request, room, node), -free, node.node_id)


def explain_shortage(request: PlacementRequest, room: Room) -> str:
    """What a replica needs, what is free at best, and who holds the rest."""
    pool, needs = request.pool, request.needs
    nodes = pool.nodes_for(request.engine)
    if not nodes:
        return f"pool {pool.name} has no node with {request.engine}"
    if needs.accelerators > 0:
        most = max(room.free_accelerators(node) for node in nodes)
        wants = f"a replica needs {plural(needs.accelerators, 'accelerator')} of one node, {max(most, 0)} free at most"
    else:
        most = max(room.free_memory_bytes(pool, node) for node in nodes)
        wants = f"a replica needs {format_bytes(needs.memory_bytes)} of one node, {format_bytes(max(most, 0))} free at most"
    holders = _holders(request, room, nodes)
    return f"{wants}; held by {holders}" if holders else wants


def _holders(request: PlacementRequest, room: Room, nodes: tuple[Node, ...]) -> str:
    totals: dict[ModelKey, int] = {}
    by_accelerator = request.needs.accelerators > 0
    for node in nodes:
        for each in room.on(node.node_id):
            amount = each.needs.accelerators if by_accelerator else each.needs.memory_bytes
            if amount:
                totals[each.model] = totals.get(each.model, 0) + amount
    largest_first = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(
        f"{model} ({plural(amount, 'accelerator') if by_accelerator else format_bytes(amount)})"
        for model, amount in largest_first
    )
