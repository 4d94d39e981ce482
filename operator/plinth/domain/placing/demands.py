"""What is asked for: replicas without a place, the shapes that they may have and where; the input of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from plinth.domain.quantities import format_bytes, plural

WHOLE = 1000
"""An accelerator's memory, in thousandths."""


class Near(IntEnum):
    """How far apart the parts of one replica may be. They are placed as near as there is room, whatever is allowed."""

    HOST = 0
    RACK = 1
    POOL = 2


class Gang(NamedTuple):
    """What one replica takes, all at once or not at all."""

    parts: int
    """Pipeline stages or data-parallel ranks: each whole in one link domain."""
    accelerators: int
    """Of each part."""
    share: int = WHOLE
    """Of each accelerator, in thousandths; on hosts that count memory, bytes."""
    within: Near = Near.POOL
    spread: bool = False
    """Apart from its siblings and where most is free, rather than packed: what shares cores or memory bandwidth."""

    @property
    def total(self) -> int:
        """Accelerators of all parts."""
        return self.parts * self.accelerators

    @property
    def is_whole(self) -> bool:
        """Whether it takes accelerators that nobody else holds anything of."""
        return self.share == WHOLE and not self.spread

    def describe(self) -> str:
        """`4 accelerators of one link domain`."""
        if self.spread:
            return f"{format_bytes(self.share)} of one host's memory"
        one = plural(self.accelerators, "accelerator")
        if self.share != WHOLE:
            one = f"{self.share} thousandths of {one}"
        one += " of one link domain" if self.accelerators > 1 else ""
        if self.parts == 1:
            return one
        where = {Near.HOST: " on one host", Near.RACK: " in one rack", Near.POOL: ""}[self.within]
        return f"{self.parts} times {one}{where}"


class Option(NamedTuple):
    """A shape and the pool that it is meant for."""

    pool: str
    """One of the names that hosts carry in `Host.pools`."""
    gang: Gang
    price: int = 0
    """What the replica costs there for what it yields (money an hour / tokens a second), in any one unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """One model's claim. All models have one, also while nothing of theirs is missing: it says what may displace it."""

    model: str
    priority: int = 0
    """Higher ones go first, and displace lower ones."""
    options: tuple[Option, ...]
    """What would do, the best first."""
    missing: tuple[str, ...] = ()
    """Names of the replicas without a place."""
    turn: float = 0.0
    """Among equals the lower one goes first, as the time when a model was first seen."""
    kept: int = 1
    """Replicas that the model needs. They may displace any of a lower priority; what only load asks for displaces
    nothing that another model needs."""
    runs: bool = False
    """Whether it has replicas, in whatever state: what runs is made whole before anything new begins."""
