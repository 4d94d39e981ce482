"""GPUPool: which accelerators exist for models, and what they cost."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from plinth.api.v1alpha1.meta import (
    API_VERSION,
    Conditions,
    DecimalString,
    Int,
    ObjectMeta,
    Observed,
    Resource,
    ResourceKey,
)

LabelValue = Annotated[str, StringConstraints(max_length=63)]
AcceleratorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][-_.A-Za-z0-9]*$", max_length=63)]


class GPUPoolSpec(Resource):
    """A set of nodes that models may be placed on."""

    accelerator: AcceleratorName = "Auto"
    """Kind of accelerator as Ray names it (`H200`, `A100`, …), `CPU`, or `Auto`: what the nodes have."""
    node_selector: dict[str, LabelValue] = Field(default_factory=dict, max_length=16)
    """Ray node labels that a node must carry to belong to the pool; empty takes every node."""
    memory_utilization_percent: Int = Field(default=90, ge=10, le=98)
    """Share of each accelerator's (on a CPU pool: each node's) memory that engines may use."""
    cost_per_accelerator_hour: DecimalString = "0"
    """Money for one accelerator (on a CPU pool: one node) an hour, as a decimal string in your currency."""


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
    reason: str = Field(default="", max_length=1024)
    """The reason of the condition that matters most now."""
    conditions: Conditions = Field(default_factory=list)
    """The pool's state, aspect by aspect."""


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
