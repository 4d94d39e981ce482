"""What one worker knows of the others of its gateway, and they of it. A gateway of one process has none of this."""

from __future__ import annotations

import mmap
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from plinth.gateway.routing.beliefs_shared import RING_BYTES, CacheNews
from plinth.gateway.server.redis import RedisAddress
from plinth.gateway.server.seating import Shares
from plinth.gateway.server.shared_load import LoadBoard
from plinth.gateway.server.turns import WakeUps
from plinth.gateway.server.worker_lines import Place


@dataclass(frozen=True, kw_only=True, slots=True)
class Peers:
    """The other workers."""

    shares: Shares
    """Load and totals, theirs and ours."""
    wakes: WakeUps
    """Who waits for room that another has."""
    news: CacheNews
    """What was sent where."""
    counters: RedisAddress | None
    """Where limits are counted for all workers; None where Redis does that for all gateways."""
    exposition: Callable[[], Awaitable[str]]
    """What all have counted, for Prometheus."""


def join_peers(place: Place, *, exposition: Callable[[], Awaitable[str]]) -> Peers:
    """By what the parent gives each worker."""
    rings = memoryview(mmap.mmap(place.news, news_bytes(place.lanes)))
    return Peers(
        shares=Shares(LoadBoard.join(place.memory, lanes=place.lanes, lane=place.lane)),
        wakes=WakeUps(place.wakes, place.lane),
        news=CacheNews(
            [rings[at : at + RING_BYTES] for at in range(0, len(rings), RING_BYTES)], own=place.lane
        ),
        counters=RedisAddress(path=Path(place.counters)) if place.counters else None,
        exposition=exposition,
    )


def news_bytes(lanes: int) -> int:
    """The memory that the news of so many workers takes; what is never written to is never there."""
    return lanes * RING_BYTES
