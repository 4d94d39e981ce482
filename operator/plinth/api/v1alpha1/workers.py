"""The part of a GPUPool that only a cluster knows: its Ray, its workers, what their pods ask of Kubernetes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, Strict, StringConstraints

from plinth.api.v1alpha1.meta import DnsLabel, Int, Resource

Bool = Annotated[bool, Strict()]
LabelValue = Annotated[str, StringConstraints(max_length=63)]
AnnotationValue = Annotated[str, StringConstraints(max_length=8192)]
NodeTypeName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=40)
]
MemorySize = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,8}(Mi|Gi|Ti)$", max_length=11)]
RayVersion = Annotated[str, StringConstraints(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$", max_length=32)]
ImageName = Annotated[str, StringConstraints(min_length=1, max_length=512)]
ClaimName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", min_length=1, max_length=253)
]
AnyObject = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
"""A part of a pod's manifest, whose fields Kubernetes itself checks."""


class TrustRemoteCode(StrEnum):
    """Whether a model may bring Python code of its own."""

    FORBIDDEN = "Forbidden"
    ALLOWED = "Allowed"


class PodMetadata(Resource):
    """Metadata for pods."""

    labels: dict[str, LabelValue] = Field(default_factory=dict, max_length=32)
    """Labels to add to the pods."""
    annotations: dict[str, AnnotationValue] = Field(default_factory=dict, max_length=32)
    """Annotations to add to the pods."""


class PodTemplate(Resource):
    """A partial pod template, laid over the one that Plinth makes."""

    metadata: PodMetadata = Field(default_factory=PodMetadata)
    """Labels and annotations to add to the pods."""
    spec: AnyObject = Field(default_factory=dict)
    """A partial pod spec. Lists whose entries have a name (containers, volumes, env, mounts) are merged entry by entry:
    the container `ray` is Plinth's, a volume of the same name replaces Plinth's, `$patch: delete` takes an entry away."""


class RaySpec(Resource):
    """The Ray that the pool's replicas run in. A change brings up a second RayCluster, and models move there."""

    version: RayVersion | None = None
    """Ray's version in the image; absent, the one this Plinth was built with."""
    image: ImageName | None = None
    """Image of the head and the workers; absent, the installation's engine image."""
    head_template: PodTemplate = Field(default_factory=PodTemplate)
    """What to change in the head's pod."""
    worker_template: PodTemplate = Field(default_factory=PodTemplate)
    """What to change in the workers' pods."""


class Toleration(Resource):
    """A taint of nodes that workers accept, as in Kubernetes."""

    key: Annotated[str, StringConstraints(max_length=317)] | None = None
    """The taint's key; absent with operator Exists, every taint."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Whether the value counts."""
    value: LabelValue | None = None
    """The taint's value, with operator Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; absent, every effect."""
    toleration_seconds: Int | None = Field(default=None, ge=0)
    """How long a NoExecute taint is tolerated; absent, for ever."""


class Workers(Resource):
    """How many Ray workers there may be, and what their pods ask of Kubernetes."""

    min: Int = Field(default=0, ge=0, le=10_000)
    """Workers that stay even when no replica needs them."""
    max: Int | None = Field(default=None, ge=1, le=10_000)
    """Workers that there are at most; absent, as many as the nodes allow."""
    idle_seconds: Int = Field(default=300, ge=0, le=86_400)
    """How long a worker that holds no replica stays."""
    runtime_class_name: DnsLabel | None = None
    """RuntimeClass of the workers' pods, as in `nvidia`."""
    tolerations: list[Toleration] = Field(default_factory=list, max_length=16)
    """Taints that the workers accept; that of GPU nodes (`nvidia.com/gpu`) is always accepted by workers with GPUs."""


class NodeType(Resource):
    """Workers of one size."""

    name: NodeTypeName
    """Name of the worker group."""
    max: Int = Field(ge=1, le=10_000)
    """Workers of this type that there are at most."""
    accelerators: Int = Field(default=0, ge=0, le=64)
    """Accelerators of each worker."""
    accelerator_memory_mib: Int = Field(default=0, ge=0, le=10_000_000)
    """Memory of one accelerator."""
    cpus: Int = Field(ge=1, le=4096)
    """CPU cores that each worker requests; there is no limit."""
    memory: MemorySize
    """Host memory of each worker, requested and limited, as in `64Gi`."""
    node_selector: dict[str, LabelValue] = Field(default_factory=dict, max_length=16)
    """Labels of the Kubernetes nodes for this type, besides those of spec.nodeSelector."""


class Volume(Resource):
    """A PersistentVolumeClaim that replicas can read models from."""

    claim: ClaimName
    """Name of the PersistentVolumeClaim in the pool's namespace; models are `pvc://CLAIM/path`."""
    read_only: Bool = True
    """Whether it is mounted for reading only."""


NodeTypes = Annotated[
    list[NodeType],
    Field(
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    ),
]
Volumes = Annotated[
    list[Volume],
    Field(
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["claim"]},
    ),
]
