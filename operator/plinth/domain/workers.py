"""How many workers each group of a pool should have, and which go: what the placed replicas need and no more.

Runs after all models have their places. A worker goes when nothing has been on it for the pool's `idleSeconds`; one
that is being emptied, as soon as it is empty. Workers are named when they go: Ray's operator would take any.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from plinth.domain.fleet import Node, NodeState, Ray, Slot, WorkerGroupPlan
from plinth.domain.pools import Pool
from plinth.domain.quantities import format_duration, plural


@dataclass(frozen=True, kw_only=True)
class WorkersDecision:
    """What a pool's RayClusters should be."""

    groups: tuple[WorkerGroupPlan, ...] = ()
    retired: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    wakes: tuple[float, ...] = ()
    """When a worker that is idle now has been so for long enough."""


def plan_workers(
    pool: Pool, occupied: Collection[str], *, rays: Iterable[Ray], slots: Iterable[Slot], now: float
) -> WorkersDecision:
    """The pool's workers; empty for a pool whose nodes Plinth does not bring up.

    `occupied`: ids of the nodes that a replica runs on or has its place on.
    """
    own = [node for node in (*pool.nodes, *pool.retiring) if node.ray]
    rays = tuple(rays)
    silent = {ray.name for ray in rays if not ray.answers}
    # Of a Ray that is silent nobody knows what its workers hold.
    kept = {
        node.node_id
        for node in own
        if _stays(node, pool, occupied, now) or (node.worker and node.ray in silent)
    }
    staying = sum(1 for node in own if node.node_id in kept and node.state is not NodeState.RETIRING)
    least = 0 if pool.deleted else pool.min_workers
    kept |= {node.node_id for node in _least(own, kept)[: max(0, least - staying)]}
    groups = [
        _group(ray, group, own, kept) for ray, group in sorted({(node.ray, node.group) for node in own})
    ]
    holding = {slot.ray for slot in slots} | {node.ray for node in own if node.node_id in occupied}
    retired = [ray.name for ray in rays if ray.pool == pool.name and ray.retiring and ray.name not in holding]
    return WorkersDecision(
        groups=tuple(groups),
        retired=tuple(sorted(retired)),
        reasons=_reasons(groups, own, pool),
        wakes=tuple(
            node.idle_since + pool.idle_seconds
            for node in own
            if node.node_id in kept and node.idle_since is not None and node.node_id not in occupied
        ),
    )


def _stays(node: Node, pool: Pool, occupied: Collection[str], now: float) -> bool:
    if node.node_id in occupied:
        return True
    if node.state is NodeState.RETIRING or not node.worker:
        return False
    return node.idle_since is not None and now < node.idle_since + pool.idle_seconds


def _least(own: list[Node], kept: set[str]) -> list[Node]:
    """Those that `min` workers would keep or bring up, in that order: what is there first, youngest idle first."""
    left = [node for node in own if node.node_id not in kept and node.state is not NodeState.RETIRING]
    return sorted(left, key=lambda node: (not node.worker, -(node.idle_since or 0.0), node.node_id))


def _group(ray: str, group: str, own: list[Node], kept: set[str]) -> WorkerGroupPlan:
    members = [node for node in own if (node.ray, node.group) == (ray, group)]
    return WorkerGroupPlan(
        ray=ray,
        group=group,
        workers=sum(1 for node in members if node.node_id in kept),
        remove=tuple(sorted(node.worker for node in members if node.worker and node.node_id not in kept)),
    )


def _reasons(groups: list[WorkerGroupPlan], own: list[Node], pool: Pool) -> tuple[str, ...]:
    sentences = []
    for plan in groups:
        members = [node for node in own if (node.ray, node.group) == (plan.ray, plan.group)]
        there = sum(1 for node in members if node.worker)
        more = plan.workers - (there - len(plan.remove))
        if more > 0:
            sentences.append(f"{plan.group}: {plural(more, 'worker')} more, for replicas without a place")
        emptied = {node.worker for node in members if node.state is NodeState.RETIRING}
        for worker in plan.remove:
            why = "it is empty now" if worker in emptied else f"idle for {format_duration(pool.idle_seconds)}"
            sentences.append(f"{plan.group}: {worker} goes, {why}")
    return tuple(sentences)
