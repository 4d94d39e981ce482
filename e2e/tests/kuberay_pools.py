"""Pools for a real API server and real pods, and the adapter of KubeRay as the operator would hold it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kube.access import Kubernetes
from kube.host_python import PULL_POLICY, host_environment, host_mounts, host_volumes
from kube.images import HOST

from plinth.api.v1alpha1 import GPUPool
from plinth.cluster.capacity import CapacityObservation
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.kuberay import KubeRayCapacity
from plinth.desired.ray_pods import RaySettings
from plinth.domain.fleet import Node, NodeState, PoolPlan, WorkerGroupPlan

RAY_VERSION = "2.57.0"
CPU_REQUESTS = {"ray": "400m", "inspector": "10m"}
"""A share that Ray starts with on two cores beside other work, and that a head and two workers fit with."""


def make_ray_settings(namespace: str, **changes: Any) -> RaySettings:
    given = {"image": HOST, "pull_policy": PULL_POLICY, "ray_version": RAY_VERSION, **changes}
    return RaySettings(namespace=namespace, **given)


def make_host_pool(name: str, **spec: Any) -> dict[str, Any]:
    """A GPUPool whose pods run this machine's Python and the checkout's code."""

    def template(*containers: str) -> dict[str, Any]:
        programs = {"env": host_environment(), "volumeMounts": host_mounts()}
        pod = {
            "containers": [
                {"name": each, "resources": {"requests": {"cpu": CPU_REQUESTS[each]}}, **programs}
                for each in containers
            ],
            "volumes": host_volumes(),
            "terminationGracePeriodSeconds": 1,
        }
        return {"spec": pod}

    return {
        "apiVersion": "plinth.dev/v1alpha1",
        "kind": "GPUPool",
        "metadata": {"name": name},
        "spec": {
            "accelerator": "CPU",
            "nodeTypes": [{"name": "small", "max": 2, "cpus": 1, "memory": "3Gi"}],
            "ray": {"headTemplate": template("ray", "inspector"), "workerTemplate": template("ray")},
            **spec,
        },
    }


def apply_pool(cluster: Kubernetes, manifest: dict[str, Any]) -> GPUPool:
    """Apply a GPUPool; returns it as the API server has it."""
    cluster.apply(manifest)
    return GPUPool.model_validate(cluster.get("gpupool", manifest["metadata"]["name"]))


def unique(name: str) -> str:
    """A name that no other test of the session uses: pools belong to the whole cluster."""
    return f"{name}-{secrets.token_hex(3)}"


class OpenFence:
    """Always leads."""

    def check(self) -> None:
        return None


@asynccontextmanager
async def capacity_of(
    kubeconfig: Path,
    settings: RaySettings,
    pools: Callable[[], Sequence[GPUPool]],
    monkeypatch: pytest.MonkeyPatch,
    wake: Callable[[], None] = lambda: None,
) -> AsyncIterator[KubeRayCapacity]:
    """The adapter, with its caches filled."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    client = await KubeClient.connect()
    capacity = KubeRayCapacity(client, fence=OpenFence(), settings=settings, pools=pools, wake=wake)
    capacity.start()
    try:
        async with asyncio.timeout(20):
            await capacity.wait_synced()
        yield capacity
    finally:
        await capacity.close()
        await client.close()
        await asyncio.sleep(0.1)  # TLS connections end a moment after they were closed


def plan_for(pool: str, *groups: WorkerGroupPlan, retired: tuple[str, ...] = ()) -> PoolPlan:
    return PoolPlan(
        name=pool,
        accelerator="CPU",
        nodes=0,
        accelerators=0,
        accelerators_used=0,
        memory_bytes=0,
        memory_used_bytes=0,
        verdicts=(),
        workers=groups,
        retired=retired,
    )


async def until(
    capacity: KubeRayCapacity, holds: Callable[[CapacityObservation], bool], *, seconds: float, what: str
) -> float:
    """Look until it holds; returns the seconds that took."""
    started = time.monotonic()
    while not holds(observed := await capacity.observe()):
        if time.monotonic() - started > seconds:
            raise AssertionError(f"not within {seconds:.0f} s: {what}; seen: {observed}")
        await asyncio.sleep(0.1)
    return time.monotonic() - started


def present(observed: CapacityObservation) -> list[Node]:
    nodes = [node for ray in observed.rays for node in ray.nodes]
    return sorted((node for node in nodes if node.state is NodeState.PRESENT), key=lambda node: node.worker)
