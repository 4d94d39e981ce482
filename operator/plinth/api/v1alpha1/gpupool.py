"""GPUPool: which accelerators exist for models, what they cost, and how Ray workers are made of them in a cluster."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, computed_field

from plinth.api.v1alpha1.accelerators import AcceleratorName, AcceleratorTypes
from plinth.api.v1alpha1.meta import (
    API_VERSION,
    Conditions,
    DecimalString,
    DnsLabel,
    Int,
    ObjectMeta,
    Observed,
    Resource,
    ResourceKey,
)
from plinth.api.v1alpha1.workers import LabelValue, NodeTypes, RaySpec, TrustRemoteCode, Volumes, Workers


class GPUPoolSpec(Resource):
    """A set of nodes that models may be placed on."""

    accelerator: AcceleratorName = "Auto"
    """Kind of accelerator as Ray names it (`H200`, `A100`, …), `CPU`, or `Auto`: what the nodes have."""
    node_selector: dict[str, LabelValue] = Field(default_factory=dict, max_length=16)
    """Labels that a node must carry to belong to the pool; empty takes every node. In a cluster they are labels of
    Kubernetes nodes, standalone those of Ray nodes."""
    memory_utilization_percent: Int = Field(default=90, ge=10, le=98)
    """Share of each accelerator's (on a CPU pool: each node's) memory that engines may use."""
    accelerator_types: AcceleratorTypes = Field(default_factory=list)
    """What the planner is to compute with, of accelerators that its catalogue lacks or has otherwise."""
    cost_per_accelerator_hour: DecimalString = "0"
    """Money for one accelerator (on a CPU pool: one node) an hour, as a decimal string in your currency."""
    namespace: DnsLabel | None = None
    """Makes the pool a dedicated one: its Ray runs in this namespace and serves only this namespace's models."""
    trust_remote_code: TrustRemoteCode = TrustRemoteCode.FORBIDDEN
    """Whether models may bring Python code of their own; such code can do all that a replica can."""
    ray: RaySpec = Field(default_factory=RaySpec)
    """The Ray that the replicas run in; only in a cluster."""
    workers: Workers = Field(default_factory=Workers)
    """How many Ray workers there may be; only in a cluster."""
    node_types: NodeTypes = Field(default_factory=list)
    """Worker sizes by hand. Absent, they are found: each Kubernetes node that the selector selects can hold one worker,
    with all its accelerators and most of its memory."""
    volumes: Volumes = Field(default_factory=list)
    """Volumes with models, for a dedicated pool."""


class GPUPoolStatus(Observed):
    """What Plinth found and how much of it is taken."""

    observed_generation: Int = 0
    """The generation of the spec that this status is about."""
    nodes: Int = 0
    """Nodes that belong to the pool and answer."""
    accelerator: str = Field(default="", max_length=63)
    """Kind of accelerator found; `CPU` where there is none."""
    accelerators: Int = 0
    """Accelerators on these nodes."""
    accelerators_used: Int = 0
    """Accelerators that replicas hold."""
    memory_bytes: Int = 0
    """Memory of the accelerators (on a CPU pool: of the nodes) together."""
    memory_used_bytes: Int = 0
    """Memory that replicas were given."""
    workers_ready: Int = 0
    """Ray workers that replicas can be placed on."""
    workers_wanted: Int = 0
    """Ray workers that the plan asks for."""
    ray_clusters: list[Annotated[str, StringConstraints(max_length=127)]] = Field(
        default_factory=list, max_length=8
    )
    """The pool's RayClusters as `namespace/name`; two while one takes over from the other."""
    plan: list[Annotated[str, StringConstraints(max_length=1024)]] = Field(
        default_factory=list, max_length=32
    )
    """Why: workers asked for and let go, a change of RayCluster and how it goes."""
    reason: str = Field(default="", max_length=1024)
    """The reason of the condition that matters most now."""
    conditions: Conditions = Field(default_factory=list)
    """The pool's state, aspect by aspect."""

    @computed_field(description="Ready workers of those wanted, as in `3/4`.")  # type: ignore[prop-decorator]
    @property
    def workers(self) -> str:
        """Ready workers of those wanted, as in `3/4`: what `kubectl get` shows first."""
        return f"{self.workers_ready}/{self.workers_wanted}"


class GPUPool(Resource):
    """A pool of accelerators for models."""

    api_version: Literal["plinth.dev/v1alpha1"] = API_VERSION
    """The version of this API."""
    kind: Literal["GPUPool"] = "GPUPool"
    """The kind of this resource."""
    metadata: ObjectMeta
    """Name and labels."""
    spec: GPUPoolSpec = Field(default_factory=GPUPoolSpec)
    """What is asked for."""
    status: GPUPoolStatus = Field(default_factory=GPUPoolStatus)
    """What was found."""

    @property
    def key(self) -> ResourceKey:
        """What names this resource; a pool has no namespace."""
        return ResourceKey(self.kind, "", self.metadata.name)
