"""How one replica is spread over accelerators; the thing that all of sizing asks about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, order=True)
class Shape:
    """The degrees of one replica. Its accelerators: data · pipeline · tensor."""

    data: int = 1
    """Copies of all but the experts, each with requests of its own."""
    pipeline: int = 1
    """Stages, each with some of the layers."""
    expert: int = 1
    """Over how many ranks whole experts are spread; 1: each expert is split like any other matrix."""
    tensor: int = 1
    """Over how many ranks each matrix is split."""

    @property
    def accelerators(self) -> int:
        """How many accelerators a replica takes."""
        return self.data * self.pipeline * self.tensor

    @property
    def expert_split(self) -> int:
        """Into how many pieces each expert is cut: vLLM also cuts it over the copies (`FusedMoEParallelConfig.make`)."""
        return 1 if self.expert > 1 else self.tensor * self.data

    def __str__(self) -> str:
        """`TP2`, `TP8 x PP2`, `TP1 x DP8 x EP8`."""
        more = [
            f"{name}{degree}"
            for name, degree in (("PP", self.pipeline), ("DP", self.data), ("EP", self.expert))
            if degree > 1
        ]
        return " x ".join([f"TP{self.tensor}", *more])


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A shape that was not chosen."""

    shape: Shape
    reason: str
