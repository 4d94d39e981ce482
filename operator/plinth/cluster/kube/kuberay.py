"""Capacity in a cluster: each GPUPool is a RayCluster of KubeRay, whose workers come and go as planned.

The adapter behind the cycle's `Capacity` port. Every replica of the operator keeps its watches warm; only the leader
looks and writes, through the fence.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plinth.api.v1alpha1 import GPUPool, ObjectMeta
from plinth.cluster.capacity import CapacityObservation, RayObservation
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.errors import Fence
from plinth.cluster.kube.kuberay_heads import RayHeads, dashboard_address
from plinth.cluster.kube.kuberay_secrets import SecretCopies
from plinth.cluster.kube.kuberay_watch import RaySight, RayWatch
from plinth.cluster.kube.kuberay_writer import RayClusterWriter, Wish
from plinth.cluster.ray_rest import RayAnswer
from plinth.desired import ray_names
from plinth.desired.pod_settings import make_pod_settings
from plinth.desired.ray_cluster import ray_cluster_key, ray_labels
from plinth.desired.ray_pods import RaySettings
from plinth.domain.fleet import Node, PoolPlan
from plinth.domain.node_types import NodeType, node_types
from plinth.domain.worker_nodes import RayStanding, potential_nodes, worker_nodes


@dataclass(frozen=True, kw_only=True)
class _Pools:
    """What follows from the pools and the Kubernetes nodes alone."""

    pools: tuple[GPUPool, ...]
    hosts: Mapping[str, Any]
    by_name: Mapping[str, GPUPool]
    current: Mapping[str, GPUPool]
    """The pools by the RayCluster that each asks for now."""
    types: Mapping[str, tuple[NodeType, ...]]
    """By pool."""


class KubeRayCapacity:
    """All pools' Rays."""

    def __init__(
        self,
        client: KubeClient,
        *,
        fence: Fence,
        settings: RaySettings,
        pools: Callable[[], Sequence[GPUPool]],
        wake: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        dashboard: Callable[[str], str] = dashboard_address,
    ) -> None:
        self._fence = fence
        self._settings = settings
        self._pools = pools
        self._watch = RayWatch(client, namespace=settings.namespace, wake=wake)
        self._heads = RayHeads(client=client, dashboard=dashboard, wake=wake)
        fenced = client.fenced(fence)
        secrets = SecretCopies(client=fenced, settings=settings, clock=clock)
        self._writer = RayClusterWriter(client=fenced, settings=settings, secrets=secrets, clock=clock)
        self._derived: _Pools | None = None
        self._answers: Mapping[str, RayAnswer | None] = {}
        self._last: tuple[tuple[object, ...], CapacityObservation] | None = None
        self._turn = asyncio.Lock()
        self._sight: RaySight | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._watch.start()

    async def wait_synced(self) -> None:
        """Wait until RayClusters, pods and nodes have been read once."""
        await self._watch.wait_synced()

    async def close(self) -> None:
        """End all watches and connections."""
        await self._watch.close()
        await self._heads.close()

    async def observe(self) -> CapacityObservation:
        """What there is now. Raises CapacityAway before the first full view of Kubernetes."""
        async with self._turn:  # the cycle and admission both look
            return await self._observe()

    async def _observe(self) -> CapacityObservation:
        pools = tuple(self._pools())
        sight = self._sight = await self._watch.look(_namespaces(pools))
        uids = {ray: cluster["metadata"]["uid"] for ray, cluster in sight.clusters.items()}
        self._answers = await self._heads.look(sight.heads, uids)
        derived = self._derive(pools, sight)
        basis = (sight, derived, tuple(self._writer.troubles.items()), *self._answers.values())
        if self._last is None or not _same(basis, self._last[0]):
            self._last = (basis, self._compose(derived, sight))
        return self._last[1]

    def suppose(self, pools: Sequence[GPUPool]) -> CapacityObservation | None:
        """What the last look would have found with these pools instead; None before the first one."""
        if self._sight is None:
            return None
        return self._compose(self._pools_on(tuple(pools), self._sight), self._sight)

    def head_address(self, pool: str) -> str | None:
        """Where the head of one of the pool's Rays was seen last, which is where its inspector is too; None without one."""
        sight = self._sight
        for ray, address in sight.heads.items() if sight else ():
            labels = sight.clusters[ray]["metadata"]["labels"] if sight and ray in sight.clusters else {}
            if labels.get(ray_names.POOL_LABEL) == pool:
                return address
        return None

    async def apply(self, ray: str, config: Mapping[str, Any]) -> None:
        """Make this the whole Serve config of one Ray. Raises CapacityAway and NotLeaderError."""
        rest = self._heads.rest(ray)
        self._fence.check()
        self._heads.forget_answer(ray)
        await rest.apply(config)

    async def read_log(self, ray: str, actor_id: str, *, lines: int) -> str:
        """The last lines of a replica's stderr, dead or alive. Raises CapacityAway."""
        return await self._heads.rest(ray).read_log(actor_id, lines=lines)

    async def resize(self, plans: Sequence[PoolPlan], pools: Sequence[GPUPool]) -> bool:
        """Make RayClusters as planned; whether anything was written. Raises CapacityAway and NotLeaderError."""
        sight = await self._watch.look(_namespaces(pools))
        answering = [ray for ray, answer in self._answers.items() if answer is not None]
        types = self._derive(tuple(pools), sight).types
        return await self._writer.write(Wish.of(plans, sight, answering=answering, types=types), pools)

    def _derive(self, pools: tuple[GPUPool, ...], sight: RaySight) -> _Pools:
        known = self._derived
        if known and _same(known.pools, pools) and known.hosts is sight.hosts:
            return known
        self._derived = self._pools_on(pools, sight)
        return self._derived

    def _pools_on(self, pools: tuple[GPUPool, ...], sight: RaySight) -> _Pools:
        living = [pool for pool in pools if not pool.metadata.deletion_timestamp]
        return _Pools(
            pools=pools,
            hosts=sight.hosts,
            by_name={pool.metadata.name: pool for pool in pools},
            current={"/".join(ray_cluster_key(pool, self._settings)): pool for pool in living},
            types={pool.metadata.name: node_types(pool, sight.hosts.values()) for pool in pools},
        )

    def _compose(self, derived: _Pools, sight: RaySight) -> CapacityObservation:
        names = {*sight.clusters, *derived.current}
        standings = {ray: self._standing(ray, derived, sight) for ray in sorted(names)}
        nodes = {
            ray: worker_nodes(standing, self._heads.nodes.get(ray, ()), sight.workers, sight.hosts)
            for ray, standing in standings.items()
        }
        return CapacityObservation(
            rays=tuple(
                self._observation(standing, nodes[ray])
                for ray, standing in standings.items()
                if ray in sight.clusters
            ),
            potential=tuple(
                node
                for ray, standing in standings.items()
                if ray.partition("/")[0] in sight.namespaces
                for node in self._potential(standing, derived, sight, nodes[ray])
            ),
            troubles={**sight.troubles, **self._writer.troubles},
        )

    @staticmethod
    def _standing(ray: str, derived: _Pools, sight: RaySight) -> RayStanding:
        pool, cluster = derived.current.get(ray), sight.clusters.get(ray)
        if cluster is None and pool is not None:
            name, is_leaving = pool.metadata.name, False
        else:
            metadata = cluster["metadata"] if cluster else {}
            name = metadata.get("labels", {}).get(ray_names.POOL_LABEL, "")
            is_leaving = "deletionTimestamp" in metadata
        return RayStanding(
            name=ray,
            pool_name=name,
            pool=derived.by_name.get(name),
            current=pool is not None and not is_leaving,
            groups=frozenset(kind.name for kind in derived.types.get(name, ())),
        )

    def _observation(self, standing: RayStanding, nodes: tuple[Node, ...]) -> RayObservation:
        answer = self._answers.get(standing.name)
        pool = standing.pool or GPUPool(metadata=ObjectMeta(name=standing.pool_name))
        return RayObservation(
            name=standing.name,
            nodes=nodes,
            serve=answer.serve if answer else None,
            settings=make_pod_settings(pool),
            pool=standing.pool_name,
            retiring=standing.retiring,
        )

    @staticmethod
    def _potential(
        standing: RayStanding, derived: _Pools, sight: RaySight, nodes: tuple[Node, ...]
    ) -> tuple[Node, ...]:
        pool = standing.pool
        if pool is None:
            return ()
        kinds = derived.types[standing.pool_name]
        return potential_nodes(
            standing,
            kinds,
            sight.workers,
            joined={node.worker for node in nodes},
            labels={kind.name: ray_labels(pool, kind) for kind in kinds},
        )


def _namespaces(pools: Sequence[GPUPool]) -> set[str]:
    """Where the pools have RayClusters, or had some before their namespace was changed."""
    told = {each.partition("/")[0] for pool in pools for each in pool.status.ray_clusters}
    return told | {pool.spec.namespace for pool in pools if pool.spec.namespace}


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """Whether both hold the very same objects; texts may be equal ones."""
    return len(one) == len(other) and all(
        a is b or (isinstance(a, tuple) and a == b) for a, b in zip(one, other, strict=True)
    )
