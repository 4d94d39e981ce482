"""The pods of a RayCluster: a head that decides and computes nothing, and workers that hold the replicas.

Non-root, without an account at the API server, with a root file system that cannot be written. KubeRay adds the start
command, the token and the head's address; its own probes would need wget and end a worker whose engine keeps it busy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from plinth.api.v1alpha1 import GPUPool
from plinth.api.v1alpha1.workers import PodTemplate
from plinth.desired import ray_names
from plinth.desired.pod_overrides import lay_over
from plinth.desired.pod_settings import CACHE_DIR, ENGINE_SECRET_FILE, SERVE_PORT
from plinth.desired.ray_environment import POD_ENVIRONMENT
from plinth.domain.kube_quantities import format_cpus, format_memory
from plinth.domain.node_types import ACCELERATOR_RESOURCE, NodeType
from plinth.domain.quantities import GIB
from plinth.domain.sources import VOLUMES

Manifest = dict[str, Any]

USER_ID = 10_001
TEMPORARY_DIR = "/tmp"  # noqa: S108 - a volume of the pod's own
HEAD_CPU_THOUSANDTHS = 1000
HEAD_MEMORY_BYTES = 4 * GIB
INSPECTOR_MEMORY = "512Mi"


@dataclass(frozen=True, kw_only=True)
class RaySettings:
    """What an installation says of all its RayClusters."""

    namespace: str
    """Where those of shared pools are, and the Secrets that dedicated ones get copies of."""
    image: str
    ray_version: str
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    redis_address: str = ""
    """Where the heads keep their state, so that a new one takes over; empty: a head that dies takes its Ray along."""
    redis_password_secret: str = ""


def make_head_template(pool: GPUPool, settings: RaySettings) -> Manifest:
    """The head's pod, with the inspector beside it."""
    ray = _container(ray_names.RAY_CONTAINER, pool, settings) | {
        "ports": [
            {"name": "gcs-server", "containerPort": ray_names.GCS_PORT, "protocol": "TCP"},
            {"name": "dashboard", "containerPort": ray_names.DASHBOARD_PORT, "protocol": "TCP"},
            {"name": "serve", "containerPort": SERVE_PORT, "protocol": "TCP"},
        ],
        "resources": _resources(HEAD_CPU_THOUSANDTHS, HEAD_MEMORY_BYTES),
        "readinessProbe": _answers("/api/gcs_healthz", ray_names.DASHBOARD_PORT),
        "livenessProbe": _listens(ray_names.DASHBOARD_PORT),
    }
    pod = _pod(pool, settings, [ray, _inspector(pool, settings)])
    return _template(pool, pod, pool.spec.ray.head_template)


def make_worker_template(pool: GPUPool, kind: NodeType, settings: RaySettings) -> Manifest:
    """A worker's pod. It never restarts in place: one pod is one Ray node, from its start to its end."""
    resources = _resources(kind.cpu_thousandths, kind.memory_bytes)
    if kind.accelerators:
        resources["limits"][ACCELERATOR_RESOURCE] = str(kind.accelerators)
    ray = _container(ray_names.RAY_CONTAINER, pool, settings) | {
        "resources": resources,
        "readinessProbe": _answers("/api/local_raylet_healthz", ray_names.AGENT_PORT),
        "livenessProbe": _listens(ray_names.AGENT_PORT),
    }
    pod = _pod(pool, settings, [ray]) | {
        "restartPolicy": "Never",
        "nodeSelector": dict(kind.node_selector),
        "tolerations": _tolerations(pool, kind),
    }
    if pool.spec.workers.runtime_class_name:
        pod["runtimeClassName"] = pool.spec.workers.runtime_class_name
    if kind.alone:
        pod["affinity"] = _apart(pool, kind)
    return _template(pool, pod, pool.spec.ray.worker_template)


def _template(pool: GPUPool, pod: Manifest, override: PodTemplate) -> Manifest:
    made = {"metadata": {"labels": {ray_names.POOL_LABEL: pool.metadata.name}}, "spec": pod}
    metadata = override.metadata.model_dump(by_alias=True, exclude_unset=True)
    return lay_over(made, {"metadata": metadata, "spec": override.spec})


def _pod(pool: GPUPool, settings: RaySettings, containers: list[Manifest]) -> Manifest:
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            # A volume of models may have millions of files: their owner is set once, not at every start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": containers,
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
            {"name": "engine-secret", "secret": {"secretName": ray_names.ENGINE_SECRET}},
            {"name": "cache", "emptyDir": {}},
            *(_claimed(volume.claim, read_only=volume.read_only) for volume in pool.spec.volumes),
        ],
    }
    if settings.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.pull_secrets]
    return pod


def _container(name: str, pool: GPUPool, settings: RaySettings) -> Manifest:
    return {
        "name": name,
        "image": pool.spec.ray.image or settings.image,
        "imagePullPolicy": settings.pull_policy,
        "env": [{"name": name, "value": value} for name, value in sorted(POD_ENVIRONMENT.items())],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": TEMPORARY_DIR},
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108 - a volume of the pod's own
            {
                "name": "engine-secret",
                "mountPath": ENGINE_SECRET_FILE.rpartition("/")[0],
                "readOnly": True,
            },
            {"name": "cache", "mountPath": CACHE_DIR},
            *(
                {
                    "name": _volume_name(volume.claim),
                    "mountPath": f"{VOLUMES}/{volume.claim}",
                    "readOnly": volume.read_only,
                }
                for volume in pool.spec.volumes
            ),
        ],
    }


def _inspector(pool: GPUPool, settings: RaySettings) -> Manifest:
    """Reads models' headers where the replicas would read them; the operator asks it over HTTP."""
    return _container(ray_names.INSPECTOR_CONTAINER, pool, settings) | {
        "command": ["plinth", "inspect"],
        "args": [
            f"--listen=0.0.0.0:{ray_names.INSPECTOR_PORT}",
            f"--secret-file={ENGINE_SECRET_FILE}",
            *([f"--volumes={VOLUMES}"] if pool.spec.volumes else []),
        ],
        "ports": [
            {"name": "inspector", "containerPort": ray_names.INSPECTOR_PORT, "protocol": "TCP"},
        ],
        "resources": {
            "requests": {"cpu": "10m", "memory": INSPECTOR_MEMORY},
            "limits": {"memory": INSPECTOR_MEMORY},
        },
    }


def _resources(cpu_thousandths: int, memory_bytes: int) -> dict[str, dict[str, str]]:
    """Memory is guaranteed, what is above it is not there. A CPU limit would only slow engines down."""
    memory = format_memory(memory_bytes)
    return {"requests": {"cpu": format_cpus(cpu_thousandths), "memory": memory}, "limits": {"memory": memory}}


def _answers(path: str, port: int) -> Manifest:
    """Ready once Ray says that it is; Ray's health paths ask for no token."""
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": 2,
        "timeoutSeconds": 5,
        "failureThreshold": 15,
    }


def _listens(port: int) -> Manifest:
    """Alive while the port is open: a process that dies closes it, one that is only busy does not."""
    return {
        "tcpSocket": {"port": port},
        "initialDelaySeconds": 120,
        "periodSeconds": 10,
        "timeoutSeconds": 10,
        "failureThreshold": 12,
    }


def _tolerations(pool: GPUPool, kind: NodeType) -> list[Manifest]:
    asked = [
        each.model_dump(by_alias=True, exclude_none=True, mode="json")
        for each in pool.spec.workers.tolerations
    ]
    own = {"key": ACCELERATOR_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}
    return [*asked, *([own] if kind.accelerators and own not in asked else [])]


def _apart(pool: GPUPool, kind: NodeType) -> Manifest:
    """No two workers of the group on one node: each was measured to take its share of a whole one."""
    same = {ray_names.POOL_LABEL: pool.metadata.name, ray_names.GROUP_LABEL: kind.name}
    term = {"labelSelector": {"matchLabels": same}, "topologyKey": "kubernetes.io/hostname"}
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def _claimed(claim: str, *, read_only: bool) -> Manifest:
    return {
        "name": _volume_name(claim),
        "persistentVolumeClaim": {"claimName": claim, "readOnly": read_only},
    }


def _volume_name(claim: str) -> str:
    """A volume's name is a label: no dots, 63 characters."""
    return f"claim-{claim.replace('.', '-')}"[:63].rstrip("-")
