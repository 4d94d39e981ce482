"""How a replica stands, and which replicas have room for a request. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

from plinth.gateway.routing.pace import Pace


class Share(Protocol):
    """A replica's load where several processes see it."""

    __slots__ = ()

    def add(self, requests: int, tokens: int) -> None:
        """Counts, in the standing and for the other processes."""


@dataclass(slots=True)
class Standing:
    """One replica as routing sees it; kept up to date by whoever dispatches."""

    slot: str
    concurrency: int
    trying: int = 0
    """Of its places, those that may be too many; see `waiting.saturation`."""
    available: bool = True
    """It may get new requests: ready, not draining, not suspected, not cooling down."""
    in_flight: int = 0
    pending_tokens: int = 0
    """Prompt tokens of requests that have no first byte yet, without those that its cache should hold."""
    in_flight_elsewhere: int = 0
    """Requests that other processes of this gateway have at it."""
    pending_tokens_elsewhere: int = 0
    share: Share | None = None
    """Who counts this process's part, where others look at it."""
    kept_tokens: int = 0
    """Tokens that running requests fill its KV cache with, their expected output included."""
    kv_tokens: int = 0
    """What its KV cache holds; 0 where nobody knows."""
    kv_seconds: float = 0.0
    """What a full cache counts for; see `scores.kv_barrier`. Kept, since it is read for every request."""
    kind: str = ""
    """Accelerator and shape: replicas of one kind should be equally fast."""
    fault: str = ""
    """Why its accelerators are not to be trusted, by the table."""
    ejected: bool = False
    """It is out of line with its peers and gets no request while another replica is there."""
    pace: Pace = field(default_factory=Pace)
    bit: int = 0
    """Its place in the beliefs about caches; 0 before it has joined them."""

    def count(self, requests: int, tokens: int) -> None:
        """Adds requests and unread prompt tokens given to the replica; takes away, where negative, what is done."""
        if self.share is None:
            self.in_flight += requests
            self.pending_tokens += tokens
        else:
            self.share.add(requests, tokens)


def with_room(standings: Collection[Standing]) -> list[Standing]:
    """The replicas that can take a request now: available, below their concurrency, and not ejected.

    Ejected ones take it where no other is available: a slow answer is better than none.
    """
    free = [
        item
        for item in standings
        if item.available and item.in_flight + item.in_flight_elsewhere < item.concurrency
    ]
    roomy = [item for item in free if not item.ejected]
    if roomy or any(item.available and not item.ejected for item in standings):
        return roomy
    return free
