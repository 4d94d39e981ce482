"""Where new replicas go: whole replicas on one node each, onto what is free, never moving what runs.

A slot holds its place from the moment it is planned until Ray no longer lists it, so also while it drains or stops.

Accelerators are packed: the node with the fewest free accelerators that still holds the replica comes first, so that
whole nodes stay free for large shapes. CPU replicas are spread: they share a node's cores, so the node with the fewest
replicas of the same model comes first, then the one with the most free memory. The node's id ends every tie.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

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


@dataclass(frozen=True)
class Room:
    """Who holds what on each node. A value: taking a place gives a new Room."""

    holdings: Mapping[str, tuple[Holding, ...]] = field(default_factory=dict)

    @cached_property
    def _taken(self) -> dict[str, Needs]:
        """What is held on each node in all, summed up when it is first asked for."""
        return {}

    def _held(self, node_id: str) -> Needs:
        held = self._taken.get(node_id)
        if held is None:
            on = self.on(node_id)
            held = self._taken[node_id] = Needs(
                accelerators=sum(each.needs.accelerators for each in on),
                memory_bytes=sum(each.needs.memory_bytes for each in on),
            )
        return held

    def on(self, node_id: str) -> tuple[Holding, ...]:
        """What is held on a node."""
        return self.holdings.get(node_id, ())

    def take(self, node_id: str, holding: Holding) -> Room:
        """The room after one more replica."""
        room = Room({**self.holdings, node_id: (*self.on(node_id), holding)})
        room._taken.update(self._taken)
        room._taken.pop(node_id, None)
        return room

    def without(self, slots: Iterable[str]) -> Room:
        """The room once these slots are gone."""
        gone = set(slots)
        return Room(
            {
                node: tuple(each for each in held if each.slot not in gone)
                for node, held in self.holdings.items()
            }
        )

    def leaving(self) -> frozenset[str]:
        """The slots that are on their way out."""
        return frozenset(each.slot for held in self.holdings.values() for each in held if each.leaving)

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


def room_of(slots: Iterable[Slot]) -> Room:
    """The room that the slots found leave, wherever they run or were told to run."""
    held: dict[str, tuple[Holding, ...]] = {}
    for slot in sorted(slots, key=lambda each: each.name):
        node_id = slot.running_on or slot.node_id
        stopping = slot.phase is SlotPhase.STOPPING
        holding = Holding(model=slot.name.model, needs=slot.needs, slot=str(slot.name), leaving=stopping)
        held[node_id] = (*held.get(node_id, ()), holding)
    return Room(held)


@dataclass(frozen=True, kw_only=True)
class PlacementRequest:
    """One replica looking for a place."""

    model: ModelKey
    needs: Needs
    pool: Pool
    engine: Engine


def find_place(request: PlacementRequest, room: Room) -> Node | None:
    """The best node for one replica, or None when no node has a whole replica's room."""
    able = [
        node
        for node in _worth_looking_at(request.pool.nodes_for(request.engine), room)
        if room.fits(request.pool, node, request.needs)
    ]
    return min(able, key=lambda node: _preference(request, room, node), default=None)


def _worth_looking_at(nodes: Iterable[Node], room: Room) -> Iterable[Node]:
    """All nodes but for those that are like an earlier one in everything: workers that nobody has asked for yet."""
    untouched: set[tuple[str, str]] = set()
    for node in nodes:
        if node.state is NodeState.POTENTIAL and not node.worker and not room.on(node.node_id):
            if (node.ray, node.group) in untouched:
                continue
            untouched.add((node.ray, node.group))
        yield node


def _preference(request: PlacementRequest, room: Room, node: Node) -> tuple[bool, bool, int, int, str]:
    """What is there comes before what must be brought up, and a worker that is on its way before one that is not."""
    siblings = sum(1 for each in room.on(node.node_id) if each.model == request.model)
    absent = node.state is not NodeState.PRESENT
    if request.needs.accelerators > 0:
        return (absent, absent and not node.worker, room.free_accelerators(node), siblings, node.node_id)
    return (
        absent,
        absent and not node.worker,
        siblings,
        -room.free_memory_bytes(request.pool, node),
        node.node_id,
    )


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
