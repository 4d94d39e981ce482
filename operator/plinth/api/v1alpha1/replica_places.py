"""What a status says of where replicas run: the nodes and accelerators of each, as planned and as seen."""

from __future__ import annotations

from pydantic import Field

from plinth.api.v1alpha1.meta import Int, Observed


class NodePlace(Observed):
    """What one replica has of one node."""

    node: str = Field(max_length=256)
    """The node's worker pod, else its address, else its id at Ray."""
    accelerators: list[Int] = Field(default_factory=list, max_length=64)
    """Those that the plan gave it, by index, stage by stage; empty on a CPU node, and where Ray chose them."""
    seen: list[Int] = Field(default_factory=list, max_length=64)
    """Those that its engine says it computes on; empty until it has."""


class ReplicaPlace(Observed):
    """Where one replica runs, or is to run."""

    replica: str = Field(max_length=256)
    """The replica's name."""
    nodes: list[NodePlace] = Field(default_factory=list, max_length=64)
    """Its nodes, that of its Serve replica first; the stages of a pipeline lie on them in this order."""
