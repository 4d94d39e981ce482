"""What is read of Kubernetes' nodes and of Ray's pods, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from plinth.cluster.kube.reflector import ObjectName
from plinth.desired import ray_names
from plinth.domain.kube_quantities import parse_thousandths, parse_units
from plinth.domain.node_types import ACCELERATOR_RESOURCE, KubeNode, Taint
from plinth.domain.worker_nodes import Worker

ENDED = frozenset({"Failed", "Succeeded"})
STUCK_REASONS = frozenset(
    {
        "CreateContainerConfigError",
        "CreateContainerError",
        "CrashLoopBackOff",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)
T = TypeVar("T")


class Readings(Generic[T]):
    """Objects as values, each read once for as long as it does not change."""

    def __init__(self, read: Any) -> None:
        self._read = read
        self._known: dict[ObjectName, tuple[Mapping[str, Any], T]] = {}
        self.values: dict[ObjectName, T] = {}

    def take(
        self, items: Mapping[ObjectName, Mapping[str, Any]], *, newest: ObjectName | None = None
    ) -> bool:
        """Read what is new, in `newest` alone or in all; whether any value differs from before."""
        names = items.keys() | self._known.keys() if newest is None else [newest]
        changed = [name for name in names if self._take(name, items.get(name))]
        if changed:
            self.values = {name: value for name, (_, value) in self._known.items()}
        return bool(changed)

    def _take(self, name: ObjectName, item: Mapping[str, Any] | None) -> bool:
        if item is None:
            return self._known.pop(name, None) is not None
        before = self._known.get(name)
        if before is not None and before[0] is item:
            return False
        value = self._read(item)
        # An equal value is kept as the object it was: a node's heartbeat is no change.
        same = before is not None and before[1] == value
        self._known[name] = (item, before[1] if same and before else value)
        return not same


def read_kube_node(item: Mapping[str, Any]) -> KubeNode:
    """A Kubernetes node."""
    spec, status = item.get("spec") or {}, item.get("status") or {}
    allocatable = status.get("allocatable") or {}
    conditions = {each["type"]: each["status"] for each in status.get("conditions") or ()}
    return KubeNode(
        name=item["metadata"]["name"],
        labels=item["metadata"].get("labels") or {},
        taints=tuple(
            Taint(key=each["key"], value=each.get("value") or "", effect=each.get("effect") or "")
            for each in spec.get("taints") or ()
        ),
        cpu_thousandths=parse_thousandths(allocatable.get("cpu", 0)),
        memory_bytes=parse_units(allocatable.get("memory", 0)),
        accelerators=parse_units(allocatable.get(ACCELERATOR_RESOURCE, 0)),
        ready=conditions.get("Ready") == "True",
        cordoned=bool(spec.get("unschedulable")),
    )


def read_worker(pod: Mapping[str, Any]) -> Worker | None:
    """A worker's pod; None for another kind of pod, and for one that has ended."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    labels = metadata.get("labels") or {}
    if labels.get(ray_names.NODE_KIND_LABEL) != ray_names.WORKER or status.get("phase") in ENDED:
        return None
    return Worker(
        name=metadata["name"],
        ray=f"{metadata['namespace']}/{labels.get(ray_names.CLUSTER_LABEL, '')}",
        pool=labels.get(ray_names.POOL_LABEL, ""),
        group=labels.get(ray_names.GROUP_LABEL, ""),
        host=(pod.get("spec") or {}).get("nodeName") or "",
        address=status.get("podIP") or "",
        started=status.get("phase") == "Running",
        leaving="deletionTimestamp" in metadata,
    )


def read_head(pod: Mapping[str, Any]) -> tuple[str, str] | None:
    """A head's RayCluster and address; None for another kind of pod, and for one that cannot answer."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    labels = metadata.get("labels") or {}
    is_head = labels.get(ray_names.NODE_KIND_LABEL) == ray_names.HEAD
    if not is_head or status.get("phase") != "Running" or "deletionTimestamp" in metadata:
        return None
    address = status.get("podIP")
    return (
        (f"{metadata['namespace']}/{labels.get(ray_names.CLUSTER_LABEL, '')}", address) if address else None
    )


def read_trouble(pod: Mapping[str, Any]) -> str:
    """Why the pod does not come up, in Kubernetes' own words; empty where nothing is wrong, or not yet."""
    status = pod.get("status") or {}
    if status.get("phase") in ENDED or "deletionTimestamp" in pod["metadata"]:
        return ""
    name = pod["metadata"]["name"]
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return f"pod {name} cannot be scheduled: {condition.get('message', '')}"
    for container in (
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in STUCK_REASONS:
            return f"pod {name} does not start: {waiting['reason']}: {waiting.get('message', '')}"
    return ""
