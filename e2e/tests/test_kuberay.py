"""A pool's RayCluster with real pods, KubeRay and Redis: it comes up, serves, is resized by name, and loses its head."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from kube.cluster import Cluster
from kube.kuberay import Redis
from kube.processes import wait_until
from kuberay_pools import (
    apply_pool,
    capacity_of,
    make_host_pool,
    make_ray_settings,
    plan_for,
    present,
    unique,
    until,
)

from plinth.api.v1alpha1 import GPUPool
from plinth.cluster.capacity import CapacityAway
from plinth.cluster.kube.kuberay import KubeRayCapacity
from plinth.cluster.ray_rest import RayAnswer
from plinth.desired.pod_settings import make_pod_settings
from plinth.domain.fleet import Node, WorkerGroupPlan
from plinth.tests.controllers.capacity_contract import holds

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

REDIS_SECRET = "plinth-redis"


class Pool:
    """One pool in a namespace of its own, and what is told of it."""

    def __init__(self, cluster: Cluster, namespace: str, pool: GPUPool, capacity: KubeRayCapacity) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.resource = pool
        self.name = pool.metadata.name
        self.capacity = capacity
        self.ray = ""
        self.group = ""

    async def resize(self, workers: int, *remove: str) -> None:
        wanted = WorkerGroupPlan(ray=self.ray, group=self.group, workers=workers, remove=remove)
        await self.capacity.resize([plan_for(self.name, wanted)], [self.resource])

    async def potential(self) -> tuple[Node, ...]:
        """The workers that could be; from then on the pool knows its Ray and group."""
        found = (await self.capacity.observe()).potential
        self.ray, self.group = found[0].ray, found[0].group
        return found

    async def nodes(self) -> list[Node]:
        return present(await self.capacity.observe())

    def pods(self, kind: str) -> dict[str, dict[str, Any]]:
        """The pods of a kind that are not on their way out."""
        labels = f"plinth.dev/pool={self.name},ray.io/node-type={kind}"
        found = self.cluster.list("pods", "-n", self.namespace, "-l", labels)
        return {
            each["metadata"]["name"]: each for each in found if "deletionTimestamp" not in each["metadata"]
        }


BringUp = Callable[[dict[str, Any]], Pool]


class OneRay:
    """The pool's Ray as the contract wants it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def observe(self) -> RayAnswer:
        async with asyncio.timeout(60):
            while (ray := (await self._pool.capacity.observe()).rays[0]).serve is None:
                await asyncio.sleep(0.5)
        return RayAnswer(nodes=ray.nodes, serve=ray.serve)

    async def apply(self, config: Mapping[str, Any]) -> None:
        """As the cycle does: again until it is taken. The first time, Serve itself is started by it."""
        async with asyncio.timeout(60):
            while True:
                try:
                    return await self._pool.capacity.apply(self._pool.ray, config)
                except CapacityAway:
                    await asyncio.sleep(0.5)


@pytest.fixture
async def bring_up(
    cluster: Cluster,
    cluster_namespace: str,
    kuberay: object,  # noqa: ARG001 - must be at work
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[BringUp]:
    """Makes a pool of a manifest; its end is waited for."""
    for name, data in (("plinth-engine", {"secret": "s"}), (REDIS_SECRET, {"password": redis.password})):
        metadata = {"name": name, "namespace": cluster_namespace}
        cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})
    settings = make_ray_settings(
        cluster_namespace, redis_address=redis.address, redis_password_secret=REDIS_SECRET
    )
    pools: list[GPUPool] = []
    async with capacity_of(cluster.kubeconfig, settings, lambda: pools, monkeypatch) as capacity:

        def make(manifest: dict[str, Any]) -> Pool:
            pools.append(apply_pool(cluster, manifest))
            return Pool(cluster, cluster_namespace, pools[-1], capacity)

        yield make
    for resource in pools:
        cluster.kubectl("delete", "gpupool", resource.metadata.name)
    wait_until(
        lambda: not cluster.list("rayclusters,pods", "-n", cluster_namespace),
        seconds=180,
        what="nothing of the pool is left",
    )


async def test_a_pools_ray_cluster_lives_from_its_first_worker_to_a_new_head(
    bring_up: BringUp, record_property: Callable[[str, object], None]
) -> None:
    def record(name: str, seconds: float) -> None:
        record_property(name, round(seconds, 2))

    pool = bring_up(make_host_pool(unique("pool")))
    potential = await pool.potential()
    await pool.resize(1)
    coming_up = until(
        pool.capacity, lambda seen: len(present(seen)) == 1, seconds=400, what="one worker is there"
    )
    record("first_worker_seconds", await coming_up)
    (node,) = await pool.nodes()
    assert (node.memory_bytes, node.cpus) == (potential[0].memory_bytes, potential[0].cpus)
    assert node.labels["plinth.dev/engines"] == "LlamaCpp"
    assert node.labels["kubernetes.io/hostname"] == "node1"
    assert [node.worker] == list(pool.pods("worker"))

    await holds(OneRay(pool), make_pod_settings(pool.resource), lambda: asyncio.sleep(0.5))

    await pool.resize(2)
    await until(
        pool.capacity, lambda seen: len(present(seen)) == 2, seconds=300, what="a second worker is there"
    )
    before = pool.pods("worker")
    newer = next(name for name in before if name != node.worker)
    await pool.resize(1, node.worker)
    gone = until(
        pool.capacity,
        lambda seen: [each.worker for each in present(seen)] == [newer],
        seconds=10,
        what="the named worker is gone",
    )
    record("named_worker_gone_seconds", await gone)
    await asyncio.sleep(5)
    after = pool.pods("worker")
    assert list(after) == [newer]
    assert after[newer]["metadata"]["uid"] == before[newer]["metadata"]["uid"]
    await pool.resize(1)
    (ray_cluster,) = pool.cluster.list("rayclusters", "-n", pool.namespace)
    assert (
        ray_cluster["spec"]["workerGroupSpecs"][0].get("scaleStrategy", {}).get("workersToDelete", []) == []
    )

    nodes = await pool.nodes()
    (head,) = pool.pods("head")
    pool.cluster.kubectl("delete", "pod", head, "-n", pool.namespace, "--force", "--grace-period=0")
    away = until(pool.capacity, lambda seen: seen.rays[0].serve is None, seconds=10, what="the head is away")
    record("head_away_seconds", await away)
    assert await pool.nodes() == nodes
    back = until(
        pool.capacity, lambda seen: seen.rays[0].serve is not None, seconds=300, what="a new head answers"
    )
    record("head_back_seconds", await back)
    await until(
        pool.capacity,
        lambda seen: [each.node_id for each in present(seen)] == [nodes[0].node_id],
        seconds=60,
        what="the worker is the same Ray node to the new head",
    )
    assert list(pool.pods("worker")) == [newer]

    started = time.monotonic()
    pool.cluster.kubectl("delete", "pod", newer, "-n", pool.namespace, "--force", "--grace-period=0")
    await until(
        pool.capacity,
        lambda seen: newer not in [each.worker for each in present(seen)],
        seconds=3,
        what="the loss of a worker's pod is seen",
    )
    record("worker_loss_seen_seconds", time.monotonic() - started)


async def test_a_worker_takes_all_accelerators_of_the_machine_that_was_found(
    cluster: Cluster, bring_up: BringUp
) -> None:
    cluster.set_capacity("node1", {"nvidia.com/gpu": 8})
    labels = {"nvidia.com/gpu.product": "NVIDIA-H200", "nvidia.com/gpu.memory": "143771"}
    cluster.kubectl(
        "label", "node", "node1", "--overwrite", *(f"{key}={value}" for key, value in labels.items())
    )
    manifest = make_host_pool(unique("gpus"), accelerator="Auto", nodeTypes=[])
    (ray,) = manifest["spec"]["ray"]["workerTemplate"]["spec"]["containers"]
    ray["resources"]["requests"]["memory"] = "3Gi"  # most of this machine is taken by who runs the test
    ray["resources"]["limits"] = {"memory": "3Gi"}
    pool = bring_up(manifest)
    await until(
        pool.capacity,
        lambda seen: [(each.accelerator, each.accelerators) for each in seen.potential] == [("H200", 8)],
        seconds=5,
        what="the machine's accelerators are seen",
    )
    (potential,) = await pool.potential()
    await pool.resize(1)
    await until(pool.capacity, lambda seen: len(present(seen)) == 1, seconds=300, what="the worker is there")
    (node,) = await pool.nodes()
    told = ("cpus", "memory_bytes", "accelerator", "accelerators", "accelerator_memory_bytes")
    assert [getattr(node, each) for each in told] == [getattr(potential, each) for each in told]
    assert (await pool.capacity.observe()).potential == (), "the machine is taken"
