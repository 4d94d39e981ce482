"""A RayCluster's nodes as the planner sees them, and the workers that could be brought up.

What Ray lists is joined with the pods and with their Kubernetes nodes.

Ray notices the loss of a node after half a minute, Kubernetes that of a pod at once. So a node without a living pod is
not there, whatever Ray says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from plinth.api.v1alpha1 import GPUPool
from plinth.domain.fleet import Node, NodeState
from plinth.domain.node_types import KubeNode, NodeType, selects


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker's pod that has not ended."""

    name: str
    ray: str
    """Its RayCluster, `namespace/name`."""
    pool: str
    group: str
    host: str = ""
    """The Kubernetes node; empty until it is scheduled."""
    address: str = ""
    """The pod's IP; empty until it has one."""
    started: bool = True
    """Whether its containers run; before, nothing of ours can run on it."""
    leaving: bool = False
    """It was told to end."""


@dataclass(frozen=True, kw_only=True)
class RayStanding:
    """A RayCluster in its pool."""

    name: str
    pool_name: str
    pool: GPUPool | None
    """None where the pool no longer exists."""
    current: bool
    """Whether it is what the pool's spec asks for now."""
    groups: frozenset[str] = frozenset()
    """The worker groups of the pool's types."""

    @property
    def retiring(self) -> bool:
        """Whether all of it is to be emptied."""
        return self.pool is None or not self.current or bool(self.pool.metadata.deletion_timestamp)


def worker_nodes(
    ray: RayStanding, listed: Iterable[Node], workers: Iterable[Worker], hosts: Mapping[str, KubeNode]
) -> tuple[Node, ...]:
    """The nodes of one RayCluster that are there, and its workers on the way that are no longer wanted."""
    own = [worker for worker in workers if worker.ray == ray.name]
    by_address = {worker.address: worker for worker in own if worker.address}
    # A pod may get the address of one that Ray has not missed yet: the later of two nodes is the one that is there.
    newest = {node.address: node for node in listed}
    joined = [
        _joined(ray, node, by_address[address], hosts)
        for address, node in newest.items()
        if address in by_address
    ]
    there = {node.worker for node in joined}
    unwanted = [
        worker
        for worker in own
        if worker.name not in there and not worker.leaving and _is_retiring(ray, worker, hosts)
    ]
    return (*joined, *(_awaited(ray, worker) for worker in unwanted))


def _joined(ray: RayStanding, node: Node, worker: Worker, hosts: Mapping[str, KubeNode]) -> Node:
    host = hosts.get(worker.host)
    retiring = worker.leaving or _is_retiring(ray, worker, hosts)
    return replace(
        node,
        labels={**host.labels, **node.labels} if host else node.labels,
        ray=ray.name,
        pool=ray.pool_name,
        group=worker.group,
        worker=worker.name,
        state=NodeState.RETIRING if retiring else NodeState.PRESENT,
    )


def _is_retiring(ray: RayStanding, worker: Worker, hosts: Mapping[str, KubeNode]) -> bool:
    if ray.pool is None or ray.retiring:
        return True
    if ray.pool.spec.node_types and worker.group not in ray.groups:
        return True
    if not worker.host:
        return False
    host = hosts.get(worker.host)
    if host is None or host.cordoned or not host.ready:
        return True
    return not ray.pool.spec.node_types and not selects(ray.pool, host)


def _awaited(ray: RayStanding, worker: Worker) -> Node:
    """A worker that Ray does not know yet and is to go again: nothing can be placed on it, but it can be named."""
    return Node(
        node_id=f"new:{worker.pool}/{worker.group}/{worker.name}",
        address=worker.address,
        labels={},
        cpus=0,
        memory_bytes=0,
        accelerator="",
        accelerators=0,
        accelerator_memory_bytes=0,
        ray=ray.name,
        pool=ray.pool_name,
        group=worker.group,
        worker=worker.name,
        state=NodeState.RETIRING,
    )


def potential_nodes(
    ray: RayStanding,
    types: Iterable[NodeType],
    workers: Sequence[Worker],
    *,
    joined: Iterable[str],
    labels: Mapping[str, Mapping[str, str]],
) -> tuple[Node, ...]:
    """The workers of a pool's current RayCluster that are on their way, then those that could be brought up.

    Args:
        ray: where they would be.
        types: the pool's.
        workers: all of Plinth's, of every pool: a node with one of them is taken.
        joined: those that are nodes of this Ray already.
        labels: what each type's nodes are told of themselves, by the type's name.
    """
    if ray.pool is None or ray.retiring:
        return ()
    joined_names = frozenset(joined)
    in_pool = [worker for worker in workers if worker.pool == ray.pool_name]
    most = ray.pool.spec.workers.max
    budget = None if most is None else max(0, most - len(in_pool))
    found: list[Node] = []
    for kind in types:
        group = [worker for worker in in_pool if (worker.ray, worker.group) == (ray.name, kind.name)]
        awaited = sorted(
            (worker for worker in group if worker.name not in joined_names and not worker.leaving),
            key=lambda worker: worker.name,
        )
        more = _room_for(kind, awaited, in_pool, workers)
        if budget is not None:
            more = min(more, budget)
            budget -= more
        names = [*(worker.name for worker in awaited), *[""] * more]
        found += [_potential(ray, kind, number, name, labels[kind.name]) for number, name in enumerate(names)]
    return tuple(found)


def _room_for(
    kind: NodeType, awaited: Iterable[Worker], in_pool: Iterable[Worker], workers: Iterable[Worker]
) -> int:
    """How many more workers of the type there could be."""
    if kind.most is not None:
        # Also those of an earlier size of the type or an earlier RayCluster: they are on machines meant for it.
        taken = sum(1 for worker in in_pool if _slug(worker.group) == _slug(kind.name))
        return max(0, kind.most - taken)
    taken_hosts = {worker.host for worker in workers if worker.host}
    unscheduled = sum(1 for worker in awaited if not worker.host)
    return max(0, len(set(kind.nodes) - taken_hosts) - unscheduled)


def _slug(group: str) -> str:
    return group.rpartition("-")[0]


def _potential(ray: RayStanding, kind: NodeType, number: int, worker: str, labels: Mapping[str, str]) -> Node:
    return Node(
        node_id=f"new:{ray.pool_name}/{kind.name}/{number}",
        address="",
        labels={**kind.labels, **labels},
        cpus=kind.ray_cpus,
        memory_bytes=kind.ray_memory_bytes,
        accelerator=kind.accelerator,
        accelerators=kind.accelerators,
        accelerator_memory_bytes=kind.accelerator_memory_mib * 2**20,
        ray=ray.name,
        pool=ray.pool_name,
        group=kind.name,
        worker=worker,
        state=NodeState.POTENTIAL,
    )
