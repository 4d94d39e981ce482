"""GPUPool: which accelerators exist for models, and what they cost."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from plinth.api.v1alpha1.meta import API_VERSION, Condition, ObjectMeta, Resource

DecimalString = Annotated[str, StringConstraints(pattern=r"^\d{1,9}(\.\d{1,6})?$")]


class GPUPoolSpec(Resource):
    """A set of nodes that models may be placed on."""

    accelerator: str = "Auto"
    """Kind of accelerator as Ray names it (`H200`, `A100`, …), `CPU`, or `Auto`: what the nodes have."""
    node_selector: dict[str, str] = Field(default_factory=dict, max_length=16)
    """Ray node labels that a node must carry to belong to the pool; empty takes every node."""
    memory_utilization_percent: int = Field(default=90, ge=10, le=98)
    """Share of each accelerator's (on a CPU pool: each node's) memory that engines may use."""
    cost_per_accelerator_hour: DecimalString = "0"
    """Money for one accelerator (on a CPU pool: one node) an hour, as a decimal string in your currency."""


class GPUPoolStatus(Resource):
    """What Plinth found and how much of it is taken."""

    observed_generation: int = 0
    nodes: int = 0
    accelerator: str = ""
    accelerators: int = 0
    accelerators_used: int = 0
    memory_bytes: int = 0
    memory_used_bytes: int = 0
    conditions: list[Condition] = Field(default_factory=list, max_length=16)


class GPUPool(Resource):
    """A pool of accelerators for models."""

    api_version: Literal["plinth.dev/v1alpha1"] = API_VERSION
    kind: Literal["GPUPool"] = "GPUPool"
    metadata: ObjectMeta
    spec: GPUPoolSpec = Field(default_factory=GPUPoolSpec)
    status: GPUPoolStatus = Field(default_factory=GPUPoolStatus)
