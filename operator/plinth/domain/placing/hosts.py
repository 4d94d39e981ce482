"""What there is and who holds it: hosts with their accelerators, and the places on them; the input of a Room."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from plinth.domain.placing.demands import WHOLE, Gang


class Standing(IntEnum):
    """How soon a host can be used; lower ones are filled first."""

    PRESENT = 0
    COMING = 1
    """A worker on its way."""
    POSSIBLE = 2
    """One that nobody has asked for yet."""


class Host(NamedTuple):
    """A node, or the host memory of one, which then counts as its one accelerator."""

    name: str
    pools: tuple[str, ...]
    domains: tuple[int, ...]
    """Accelerators of each link domain. They are numbered through, in this order, from 0 on."""
    rack: str = ""
    """Hosts without a rack count as one."""
    standing: Standing = Standing.PRESENT
    whole: int = WHOLE
    """What one accelerator holds: thousandths, or bytes of host memory."""


class Part(NamedTuple):
    """One part of a replica: accelerators of one link domain, by their numbers on the host."""

    host: str
    accelerators: tuple[int, ...]


Place = tuple[Part, ...]


class Hold(NamedTuple):
    """A replica and the place that it holds."""

    replica: str
    model: str
    pool: str
    gang: Gang
    place: Place
    since: float = 0.0
    """Unix seconds: of two equals the younger one is displaced."""
    leaving: bool = False
    """It drains, stops or is being moved: its place will be free."""
    movable: bool = True
    """Whether its like could be started elsewhere in its stead."""
