"""Places for what is missing of all models at once: what models claim, put to placement, and its answer by replica.

All of it follows from the snapshot: a replica that moves is known by the one that was started in its stead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from plinth.domain.accelerators.catalogue import find_accelerator
from plinth.domain.fleet import FleetSnapshot, ModelKey, Node, SlotName, SlotPhase
from plinth.domain.numbering import Numbering, number
from plinth.domain.placing.demands import Demand
from plinth.domain.placing.hosts import Place
from plinth.domain.placing.plan import Move, PlacementPlan, plan_places
from plinth.domain.placing.room import Room
from plinth.domain.placing.view import Holdings, Hosts
from plinth.domain.pools import Pool
from plinth.domain.sides import RolloutRequest

MOVES = 1
"""Replicas that may be on the move at once: each costs a start, and a second place while it lasts."""


class PlaceMemory:
    """Who holds what, kept from pass to pass. It makes no difference to a plan and only saves work."""

    def __init__(self) -> None:
        self.room = Room()
        self.hosts = Hosts()
        self.holdings = Holdings()


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One model's."""

    request: RolloutRequest
    priority: int
    needed: int
    """Replicas that it cannot do without."""
    first_seen: float

    @cached_property
    def demand(self) -> Demand:
        """As placement sees it."""
        request = self.request
        return Demand(
            model=str(request.model),
            priority=self.priority,
            options=(request.option,),
            missing=tuple(str(name) for name in request.missing),
            turn=self.first_seen,
            kept=self.needed,
            runs=bool(request.slots),
        )

    @cached_property
    def leaving(self) -> frozenset[SlotName]:
        """Replicas whose place will be free."""
        going = (slot.name for slot in self.request.sides.leaving)
        return frozenset(going).union(self.request.broken, self.request.moving)

    @cached_property
    def movable(self) -> frozenset[SlotName]:
        """Replicas that another could be started for: what does not start is not made to."""
        if self.request.failing or self.request.retry_at is not None:
            return frozenset()
        return frozenset(
            slot.name
            for slot in self.request.sides.kept_new
            if slot.phase is SlotPhase.READY and slot.draining_since is None
        )


@dataclass(frozen=True, kw_only=True)
class Allotment:
    """The places of one pass."""

    room: Room
    """With all that was given."""
    plan: PlacementPlan
    nodes: Mapping[str, Node]
    """By id."""
    numbering: Numbering
    moved: Mapping[SlotName, Move] = field(default_factory=dict)
    displaced: Mapping[SlotName, str] = field(default_factory=dict)
    promised: frozenset[SlotName] = frozenset()
    """Replicas that must be gone before others can be created, those aside that move."""

    def nodes_at(self, place: Place) -> tuple[Node, ...]:
        """The nodes of a replica, the first its Serve replica's."""
        return tuple(self.nodes[each.node_id] for each in self.numbering.told(place))

    @property
    def disturbed(self) -> Iterator[ModelKey]:
        """Models of which replicas go for the sake of others."""
        return (name.model for name in (*self.moved, *self.displaced, *self.promised))

    def settle(self, request: RolloutRequest) -> RolloutRequest:
        """The request with what becomes of its replicas for the sake of others."""
        names = {slot.name for slot in request.slots}
        moved = {name: self.moved[name].reason for name in names & self.moved.keys()}
        yielding = {name: self.displaced[name] for name in names & self.displaced.keys()}
        promised = names & self.promised
        if not moved and not yielding and not promised:
            return request
        return replace(
            request, moving={**request.moving, **moved}, yielding=yielding, promised=frozenset(promised)
        )


def allot(
    claims: Mapping[ModelKey, Claim],
    snapshot: FleetSnapshot,
    pools: Collection[Pool],
    *,
    leaving: Iterable[SlotName],
    memory: PlaceMemory,
) -> Allotment:
    """Places for all that is missing. `leaving`: replicas that go of models without a claim."""
    going = set(leaving).union(*(claim.leaving for claim in claims.values()))
    movable = set[SlotName]().union(*(claim.movable for claim in claims.values()))
    fixed = {slot.name for slot in snapshot.slots} - movable
    numbering = number(snapshot.slots)
    hosts = numbering.open_hosts(memory.hosts.of(pools, _link_domains(pools)))
    holds = memory.holdings.of(snapshot.slots, hosts, leaving=going, fixed=fixed)
    memory.room.update(hosts, holds)
    moving = {name for claim in claims.values() for name in claim.request.moving}
    demands = {claim.demand.model: claim.demand for claim in claims.values()}
    plan = plan_places(memory.room, demands, moves=max(0, MOVES - len(moving)))
    moved = {_slot(replica): move for replica, move in plan.moved.items()}
    awaited = {_slot(replica) for placed in plan.placed.values() for replica in placed.after}
    return Allotment(
        room=memory.room,
        plan=plan,
        nodes={node.node_id: node for node in snapshot.nodes},
        numbering=numbering,
        moved=moved,
        displaced={_slot(replica): reason for replica, reason in plan.displaced.items()},
        promised=frozenset(awaited - moved.keys() - moving),
    )


def _slot(replica: str) -> SlotName:
    name = SlotName.parse(replica)
    if name is None:
        raise ValueError(f"{replica!r} is no slot's name")
    return name


def _link_domains(pools: Iterable[Pool]) -> dict[str, int]:
    """Accelerators of one link domain, by kind: the least that a pool of the kind states, else the catalogue's.

    Of pools that state different sizes for machines that they share, no shape may be split over a link that is not there.
    """
    sizes: dict[str, int] = {}
    for pool in (each for each in pools if not each.is_cpu):
        nodes = (*pool.nodes, *pool.retiring)
        kinds = {node.accelerator: node.accelerator_memory_bytes for node in nodes if node.accelerators}
        for kind, memory in kinds.items():
            size = pool.accelerator_figures.link_domain_size if kind == pool.accelerator else None
            known = find_accelerator(kind, memory)
            size = size or (known.link.domain_size if known else 0)
            sizes[kind] = min(size, sizes.get(kind, size))
    return sizes
