"""What each pool has, how much of it the plan takes, and how many workers it should have: after all places are given."""

from __future__ import annotations

from collections.abc import Iterable

from plinth.domain.conditions import pool_verdicts
from plinth.domain.fleet import FleetSnapshot, Node, PoolPlan, Slot
from plinth.domain.placing.room import Room
from plinth.domain.placing.view import host_name, node_id_of
from plinth.domain.pools import Pool
from plinth.domain.workers import plan_workers


def occupied_nodes(room: Room, slots: Iterable[Slot]) -> frozenset[str]:
    """The ids of nodes that a replica runs on or has its place on."""
    held = (node_id_of(name) for name, stand in room.stands.items() if stand.holds)
    return frozenset(held).union(*(slot.nodes for slot in slots))


def plan_pool(
    pool: Pool, room: Room, occupied: frozenset[str], snapshot: FleetSnapshot, now: float
) -> tuple[PoolPlan, tuple[float, ...]]:
    """The pool's plan, and when it would change by time alone."""
    rays = [ray for ray in snapshot.rays if ray.pool in {"", pool.name}]
    workers = plan_workers(pool, occupied, rays=rays, slots=snapshot.slots, now=now)
    known = all(ray.answers or ray.retiring for ray in rays)
    there = [*pool.present, *pool.retiring]
    accelerators = sum(node.accelerators for node in there) if not pool.is_cpu else 0
    memory = sum(pool.usable_memory_bytes(node) for node in there)
    if not pool.is_cpu:
        memory = sum(node.accelerators * pool.usable_accelerator_bytes(node) for node in there)
    used = {node.node_id: _used(node, pool, room) for node in there}
    plan = PoolPlan(
        name=pool.name,
        accelerator=pool.accelerator,
        nodes=len(there),
        accelerators=accelerators,
        accelerators_used=sum(used.values()) if not pool.is_cpu else 0,
        memory_bytes=memory,
        memory_used_bytes=sum(
            used[node.node_id] * (1 if pool.is_cpu else pool.usable_accelerator_bytes(node)) for node in there
        ),
        verdicts=pool_verdicts(pool, capacity_known=known, trouble=snapshot.troubles.get(pool.name, "")),
        workers=workers.groups,
        workers_ready=sum(1 for node in there if node.worker),
        rays=tuple(sorted(ray.name for ray in rays if ray.name)),
        retired=workers.retired,
        reasons=workers.reasons,
    )
    return plan, workers.wakes


def _used(node: Node, pool: Pool, room: Room) -> int:
    """What is promised to replicas: bytes of a CPU pool's memory, else whole accelerators."""
    stand = room.stands.get(host_name(node, pool))
    if stand is None:
        return 0
    if pool.is_cpu:
        return stand.host.whole - max(0, *stand.free)
    return sum(1 for free in stand.free if free < stand.host.whole)
