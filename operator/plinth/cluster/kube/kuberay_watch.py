"""What Kubernetes has of all pools' Rays: RayClusters, their pods, and the nodes, watched and read into values.

RayClusters and pods are watched in the namespaces that pools are in, since the operator may read only there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from plinth.cluster.capacity import CapacityAway
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.kinds import NODE, POD, RAY_CLUSTER
from plinth.cluster.kube.kuberay_objects import (
    Readings,
    read_head,
    read_kube_node,
    read_trouble,
    read_worker,
)
from plinth.cluster.kube.reflector import Reflector
from plinth.desired import ray_names
from plinth.domain.node_types import KubeNode
from plinth.domain.worker_nodes import Worker

FIRST_SIGHT_SECONDS = 5.0
"""How long a look waits for a namespace that is new to it."""


@dataclass(frozen=True, kw_only=True)
class PodReading:
    """One pod of a pool, read once."""

    pool: str
    worker: Worker | None
    head: tuple[str, str] | None
    trouble: str


@dataclass(frozen=True, kw_only=True)
class RaySight:
    """Everything at one moment; the same object again while nothing has changed."""

    clusters: Mapping[str, Mapping[str, Any]]
    """RayClusters by `namespace/name`."""
    workers: tuple[Worker, ...]
    heads: Mapping[str, str]
    """Address of the head of each RayCluster that has one running."""
    hosts: Mapping[str, KubeNode]
    troubles: Mapping[str, str]
    """Why a pod of the pool does not come up, by pool."""
    namespaces: frozenset[str]
    """Those that could be read."""


class _Namespace:
    """The two watches of one namespace."""

    def __init__(self, client: KubeClient, namespace: str, on_change: Callable[[], None]) -> None:
        self.clusters = Reflector(
            client, RAY_CLUSTER, namespace=namespace, labels=ray_names.POOL_LABEL, on_change=on_change
        )
        self.pods = Reflector(
            client, POD, namespace=namespace, labels=ray_names.POOL_LABEL, on_change=on_change
        )
        self.pod_readings: Readings[PodReading] = Readings(_read_pod)
        self.is_patiently_waited_for = True

    @property
    def synced(self) -> bool:
        return self.clusters.synced and self.pods.synced

    async def wait_synced(self) -> None:
        await self.clusters.wait_synced()
        await self.pods.wait_synced()

    def start(self) -> None:
        self.clusters.start()
        self.pods.start()

    async def close(self) -> None:
        await self.clusters.close()
        await self.pods.close()


class RayWatch:
    """The watches; `wake` is called when something changed that a plan may depend on."""

    def __init__(self, client: KubeClient, *, namespace: str, wake: Callable[[], None]) -> None:
        self._client = client
        self._wake = wake
        self._nodes = Reflector(client, NODE, on_change=self._nodes_changed)
        self._hosts: Readings[KubeNode] = Readings(read_kube_node)
        self._by_name: Mapping[str, KubeNode] = {}
        self._release = namespace
        self._namespaces = {namespace: _Namespace(client, namespace, self._changed)}
        self._sight: RaySight | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._nodes.start()
        self._namespaces[self._release].start()

    async def wait_synced(self) -> None:
        """Wait until everything has been seen once."""
        await self._nodes.wait_synced()
        await self._namespaces[self._release].wait_synced()

    async def close(self) -> None:
        """End all watches."""
        await self._nodes.close()
        for each in self._namespaces.values():
            await each.close()

    async def look(self, namespaces: Iterable[str]) -> RaySight:
        """What there is in these namespaces too. Raises CapacityAway before the first full view."""
        for name in sorted(set(namespaces) - self._namespaces.keys()):
            self._namespaces[name] = _Namespace(self._client, name, self._changed)
            self._namespaces[name].start()
        if not self._nodes.synced or not self._namespaces[self._release].synced:
            raise CapacityAway("RayClusters, pods and nodes have not been read yet")
        await self._wait_for_new_ones()
        if self._sight is None:
            self._sight = self._see()
        return self._sight

    async def _wait_for_new_ones(self) -> None:
        """Once for each: taken for empty, a namespace with a serving Ray would lose its routes."""
        new = [each for each in self._namespaces.values() if each.is_patiently_waited_for]
        for each in new:
            each.is_patiently_waited_for = False
            try:
                async with asyncio.timeout(FIRST_SIGHT_SECONDS):
                    await each.wait_synced()
            except TimeoutError:
                continue
            self._sight = None

    def _changed(self) -> None:
        self._sight = None
        self._wake()

    def _nodes_changed(self) -> None:
        """Kubelets write their nodes' status every few minutes; most of that is no news."""
        if self._hosts.take(self._nodes.items, newest=self._nodes.newest):
            self._by_name = {}
            self._changed()

    def _see(self) -> RaySight:
        if not self._by_name:
            self._by_name = {node.name: node for node in self._hosts.values.values()}
        clusters: dict[str, Mapping[str, Any]] = {}
        pods: list[PodReading] = []
        for namespace in self._namespaces.values():
            clusters |= {"/".join(name): item for name, item in namespace.clusters.items.items()}
            namespace.pod_readings.take(namespace.pods.items)
            pods += namespace.pod_readings.values.values()
        return RaySight(
            clusters=clusters,
            workers=tuple(pod.worker for pod in pods if pod.worker),
            heads=dict(pod.head for pod in pods if pod.head),
            hosts=self._by_name,
            troubles={pod.pool: pod.trouble for pod in reversed(pods) if pod.trouble},
            namespaces=frozenset(name for name, each in self._namespaces.items() if each.synced),
        )


def _read_pod(pod: Mapping[str, Any]) -> PodReading:
    return PodReading(
        pool=(pod["metadata"].get("labels") or {}).get(ray_names.POOL_LABEL, ""),
        worker=read_worker(pod),
        head=read_head(pod),
        trouble=read_trouble(pod),
    )
