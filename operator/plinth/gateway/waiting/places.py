"""Places at replicas, and those of them that are kept back. Pure.

The last places of each replica are only for keys below their share (see `queue`): one that comes back finds room at
once, and at a replica that works below its limit, even while that limit is being learnt.
"""

from __future__ import annotations

from collections.abc import Iterable

from plinth.gateway.routing.choice import Standing

RESERVE = 16
"""One place in so many is kept back; a replica with fewer keeps none."""


def is_open(standing: Standing) -> bool:
    """Whether a replica has a place for any key."""
    most = standing.concurrency - standing.concurrency // RESERVE
    return standing.available and standing.in_flight + standing.in_flight_elsewhere < most


def open_places(standings: Iterable[Standing]) -> list[Standing]:
    """Replicas that have a place for any key; where there are none, what is left is reserved."""
    return [standing for standing in standings if is_open(standing)]


def count_places(standings: Iterable[Standing]) -> int:
    """Requests that the replicas work on at once."""
    return sum(standing.concurrency for standing in standings if standing.available)
