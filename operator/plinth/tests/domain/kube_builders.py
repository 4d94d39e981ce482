"""Kubernetes nodes and Ray workers with defaults, for tests: say only what matters."""

from __future__ import annotations

from collections.abc import Mapping

from plinth.api.v1alpha1 import GPUPool
from plinth.domain.node_types import KubeNode, Taint
from plinth.domain.quantities import GIB
from plinth.domain.worker_nodes import Worker

H200_LABELS = {
    "node.kubernetes.io/instance-type": "p5en.48xlarge",
    "nvidia.com/gpu.product": "NVIDIA-H200",
    "nvidia.com/gpu.memory": "143771",
}


def make_kube_node(
    name: str = "n1",
    *,
    labels: Mapping[str, str] | None = None,
    cpus: float = 16,
    memory_gib: float = 64,
    accelerators: int = 0,
    taints: tuple[Taint, ...] = (),
    ready: bool = True,
    cordoned: bool = False,
) -> KubeNode:
    return KubeNode(
        name=name,
        labels={"kubernetes.io/hostname": name, **(H200_LABELS if accelerators else {}), **(labels or {})},
        taints=taints,
        cpu_thousandths=round(cpus * 1000),
        memory_bytes=round(memory_gib * GIB),
        accelerators=accelerators,
        ready=ready,
        cordoned=cordoned,
    )


def make_h200_node(name: str = "g1", **changes: object) -> KubeNode:
    return make_kube_node(name, **{"cpus": 191.5, "memory_gib": 2000, "accelerators": 8, **changes})  # type: ignore[arg-type]


def make_kube_pool(name: str = "pool", *, deleted: bool = False, **spec: object) -> GPUPool:
    """`spec` by the names on the wire."""
    metadata = {"name": name, "uid": f"uid-of-{name}"}
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return GPUPool.model_validate({"kind": "GPUPool", "metadata": metadata, "spec": spec})


def make_worker(
    name: str = "w1",
    *,
    ray: str = "plinth-system/pool-11111111",
    pool: str = "pool",
    group: str = "h200-x8-abc123",
    host: str = "g1",
    address: str = "10.0.0.1",
    started: bool = True,
    leaving: bool = False,
) -> Worker:
    return Worker(
        name=name,
        ray=ray,
        pool=pool,
        group=group,
        host=host,
        address=address,
        started=started,
        leaving=leaving,
    )
