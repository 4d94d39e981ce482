"""A GPUPool as the RayCluster that it asks for: KubeRay makes the pods of it.

A RayCluster's name ends in its revision, a digest of all that cannot change under running pods: image, Ray's version,
pod templates, volumes. Another revision is another RayCluster beside the old one, and models move. Node types are worker
groups: a new one joins the RayCluster that is there, and how many workers each has is only a number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from plinth.api.v1alpha1 import API_VERSION, GPUPool
from plinth.desired import ray_names
from plinth.desired.ray_pods import Manifest, RaySettings, make_head_template, make_worker_template
from plinth.domain.fleet import Engine
from plinth.domain.node_types import NodeType
from plinth.domain.pools import CPU, ENGINES_LABEL

REVISION_DIGITS = 8
OBJECT_STORE_BYTES = 256 * 2**20
"""Nothing of ours goes through Ray's object store; what it does not take is left to engines."""
MOST_WORKERS = 10_000
_NO_TYPE = NodeType(
    name="",
    accelerator=CPU,
    accelerators=0,
    accelerator_memory_mib=0,
    cpu_thousandths=1000,
    memory_bytes=2**30,
)
"""Stands for every node type in the revision, since types are no part of it."""


def ray_cluster_key(pool: GPUPool, settings: RaySettings) -> tuple[str, str]:
    """Namespace and name of the RayCluster that the pool asks for now."""
    name = ray_names.ray_cluster_name(pool.metadata.name, revision_of(pool, settings))
    return ray_names.namespace_of(pool, settings.namespace), name


def revision_of(pool: GPUPool, settings: RaySettings) -> str:
    """Eight hex digits that change with whatever needs new pods, and with nothing else."""
    made_of = {
        "namespace": ray_names.namespace_of(pool, settings.namespace),
        "cluster": _cluster(pool, settings),
        "workers": make_worker_template(pool, _NO_TYPE, settings),
    }
    canonical = json.dumps(made_of, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:REVISION_DIGITS]


def make_ray_cluster(pool: GPUPool, groups: Sequence[Mapping[str, Any]], settings: RaySettings) -> Manifest:
    """The whole manifest, with these worker groups."""
    namespace, name = ray_cluster_key(pool, settings)
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {ray_names.POOL_LABEL: pool.metadata.name},
            "ownerReferences": [{**owner_reference(pool), "controller": True}],
        },
        "spec": {**_cluster(pool, settings), "workerGroupSpecs": [dict(group) for group in groups]},
    }


def owner_reference(pool: GPUPool) -> Manifest:
    """What ties an object's life to the pool's; a cluster-wide owner may own in any namespace."""
    return {
        "apiVersion": API_VERSION,
        "kind": pool.kind,
        "name": pool.metadata.name,
        "uid": str((pool.metadata.model_extra or {}).get("uid", "")),
    }


def _cluster(pool: GPUPool, settings: RaySettings) -> Manifest:
    """Everything but the worker groups."""
    spec: Manifest = {
        "rayVersion": pool.spec.ray.version or settings.ray_version,
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "rayStartParams": {
                "dashboard-host": "0.0.0.0",  # noqa: S104 - a pod; its token and the network policy guard it
                # Said in words, so that a head whose dashboard fails to start ends, and is started again.
                "include-dashboard": "true",
                "num-cpus": "0",
                "num-gpus": "0",
                "object-store-memory": str(OBJECT_STORE_BYTES),
            },
            "template": make_head_template(pool, settings),
        },
    }
    if settings.redis_address:
        spec["gcsFaultToleranceOptions"] = _redis(settings)
    return spec


def _redis(settings: RaySettings) -> Manifest:
    options: Manifest = {"redisAddress": settings.redis_address}
    if settings.redis_password_secret:
        secret = {"name": settings.redis_password_secret, "key": ray_names.REDIS_PASSWORD_KEY}
        options["redisPassword"] = {"valueFrom": {"secretKeyRef": secret}}
    return options


def make_worker_group(pool: GPUPool, kind: NodeType, settings: RaySettings) -> Manifest:
    """The worker group of a type, without workers."""
    return {
        "groupName": kind.name,
        "replicas": 0,
        "minReplicas": 0,
        # Not how many there can be now: nodes that come and go would each write it anew.
        "maxReplicas": pool.spec.workers.max or MOST_WORKERS,
        "numOfHosts": 1,
        "labels": ray_labels(pool, kind),
        "rayStartParams": {
            "num-cpus": str(kind.ray_cpus),
            "num-gpus": str(kind.accelerators),
            "memory": str(kind.ray_memory_bytes),
            "object-store-memory": str(OBJECT_STORE_BYTES),
        },
        "scaleStrategy": {"workersToDelete": []},
        "template": make_worker_template(pool, kind, settings),
    }


def ray_labels(pool: GPUPool, kind: NodeType) -> dict[str, str]:
    """What a worker of the type tells Ray of itself: its engines and its accelerators.

    An image with other engines says so by the same label in the pool's worker template.
    """
    usual = [Engine.LLAMA_CPP, *([Engine.VLLM] if kind.accelerators else [])]
    engines = pool.spec.ray.worker_template.metadata.labels.get(ENGINES_LABEL) or ".".join(usual)
    return {ENGINES_LABEL: engines, **kind.ray_labels}


def sized(
    group: Mapping[str, Any],
    *,
    workers: int,
    remove: Iterable[str],
    living: Iterable[str],
    leaving: Iterable[str],
) -> Manifest:
    """The group with so many workers, of which those named go.

    KubeRay takes any pod where there are more than it is told to keep. So the number never falls below what is left
    when only named ones go: a worker that nobody named, because it came up meanwhile, stays until the next plan.

    Args:
        group: the group, with any number.
        workers: how many are wanted.
        remove: the pods to go.
        living: pods of the group that were not told to end.
        leaving: those that were.
    """
    there = set(living)
    going = there & set(remove)
    named_before = set((group.get("scaleStrategy") or {}).get("workersToDelete") or ())
    return {
        **group,
        "replicas": max(workers, len(there - going)),
        # Named until they are gone, then no more.
        "scaleStrategy": {"workersToDelete": sorted(going | (named_before & (there | set(leaving))))},
    }


def says_all_of(wanted: Any, found: Any) -> bool:
    """Whether what is found says all that is wanted; the API server and KubeRay fill in more.

    An empty value is as good as none: KubeRay leaves it out when it writes an object back.
    """
    if isinstance(wanted, Mapping):
        return all(
            says_all_of(value, found.get(key) if isinstance(found, Mapping) else None)
            for key, value in wanted.items()
        )
    if isinstance(wanted, list) and wanted:
        return isinstance(found, list) and len(found) == len(wanted) and all(map(says_all_of, wanted, found))
    return bool(wanted == found) or not (wanted or found)
