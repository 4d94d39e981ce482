"""What is seen of Ray in one look, whoever looks: the values behind the cycle's `Capacity` port."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from plinth.desired.serve_config import ServeSettings
from plinth.domain.fleet import Node


class CapacityAway(Exception):  # noqa: N818 - a state of the world, in the words the status uses
    """Ray did not answer, or answered that it cannot: nothing is known of it now."""


@dataclass(frozen=True, kw_only=True)
class RayObservation:
    """One Ray: its live nodes, and `GET /api/serve/applications/` as it came."""

    name: str
    """The RayCluster, `namespace/name`; empty for the one Ray of a machine."""
    nodes: tuple[Node, ...]
    """As last seen where it does not answer."""
    serve: Mapping[str, Any] | None
    """None where it does not answer."""
    settings: ServeSettings
    """What its replicas are told."""
    pool: str = ""
    """The GPUPool it was brought up for; empty: its nodes belong to pools by their labels."""
    retiring: bool = False
    """Another one is to take its place, or its pool is being deleted."""


@dataclass(frozen=True, kw_only=True)
class CapacityObservation:
    """All Rays, and the workers that could be brought up."""

    rays: tuple[RayObservation, ...]
    potential: tuple[Node, ...] = ()
    troubles: Mapping[str, str] = field(default_factory=dict)
    """What keeps a pool's Ray or workers from coming up, by pool."""
