"""Places at replicas, and those of them that are kept back. Pure.

The last free places of all replicas together are only for keys below their share (see `queue`): one that comes back
finds room at once. Places that a replica is only tried with (see `saturation`) are not kept back: whoever gets one may
wait inside the engine, so they are for keys that would wait anyway. One replica is tried at a time, or few places that
are sure would be left; another's trial meanwhile is in vain.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import isqrt
from typing import Final

from plinth.gateway.routing.choice import Standing, with_room

FEWEST: Final = 16
"""A model with fewer places keeps none back."""


class Room:
    """Where requests may go now."""

    __slots__ = ("every", "open")

    def __init__(self, standings: Collection[Standing]) -> None:
        self.every = with_room(standings)
        """Replicas for a key below its share."""
        self.open: list[Standing] = []
        """Replicas for any key; none, where all places left are reserved."""
        kept = reserve(count_places(standings))
        each = kept // max(1, len(self.every))
        sure: list[Standing] = []
        free = 0
        for standing in self.every:
            spare = _spare(standing)
            if spare > 0:
                free += spare
                sure.append(standing)
                if spare > each:
                    self.open.append(standing)
        if free <= kept:
            tried = next((item for item in standings if item.trying and _is_present(item)), None)
            self.open = [item for item in self.every if item is tried]
        if sure:
            self.every = sure


def is_ample(standing: Standing, replicas: int) -> bool:
    """Whether one replica has more room than all together keep back, were they like it: saves to look at the others."""
    spare = _spare(standing)
    return spare > 1 and (spare - 1) * (spare - 1) >= standing.concurrency * replicas


def _spare(standing: Standing) -> int:
    """Free places that are sure."""
    return standing.concurrency - standing.trying - standing.in_flight - standing.in_flight_elsewhere


def _is_present(standing: Standing) -> bool:
    return standing.available and not standing.ejected


def reserve(places: int) -> int:
    """How many of so many places are kept back.

    Keys below their share bring requests at random: what varies grows with the square root of the whole.
    """
    return isqrt(places - 1) + 1 if places >= FEWEST else 0


def count_places(standings: Iterable[Standing]) -> int:
    """Requests that the replicas work on at once."""
    return sum(standing.concurrency for standing in standings if standing.available)
