"""How a replica stands, and the plainest choice among replicas: the one with the least outstanding work. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

from plinth.gateway.routing.pace import Pace

REQUEST_TOKENS = 32
"""What a running request weighs against prompt tokens still to be read. Decoding one request beside others costs
a prompt about 2 ms, in which an accelerator reads some 30 prompt tokens (15k a second)."""


class Share(Protocol):
    """A replica's load where several processes see it."""

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


def order(standing: Standing, avoid: Collection[str] = ()) -> tuple[bool, int, int, str]:
    """The key that the smallest wins by.

    1. replicas at which this request failed come last,
    2. outstanding work in tokens: prompts not yet answered, and 32 for each request at the replica,
    3. requests at the replica,
    4. the slot's name, which is unique: two gateways with the same view choose the same.
    """
    requests = standing.in_flight + standing.in_flight_elsewhere
    work = standing.pending_tokens + standing.pending_tokens_elsewhere + REQUEST_TOKENS * requests
    return standing.slot in avoid, work, requests, standing.slot


def with_room(standings: Collection[Standing], headroom: int = 0) -> list[Standing]:
    """The replicas that can take a request now.

    A replica has room below its concurrency; `headroom` more are given out only when every replica that is
    available has reached it. An ejected replica counts only where all are: a slow answer is better than none.
    """
    roomy = [
        item
        for item in standings
        if item.available
        and not item.ejected
        and item.in_flight + item.in_flight_elsewhere < item.concurrency
    ]
    return roomy or _last_resort(standings, headroom)


def choose(
    standings: Collection[Standing], *, headroom: int = 0, avoid: Collection[str] = ()
) -> Standing | None:
    """The replica for one request, or None when all are busy or away and the request must be held."""
    roomy = with_room(standings, headroom)
    if len(roomy) <= 1:
        return roomy[0] if roomy else None
    return min(roomy, key=lambda item: order(item, avoid))


def _last_resort(standings: Collection[Standing], headroom: int) -> list[Standing]:
    available = [item for item in standings if item.available]
    present = [item for item in available if not item.ejected] or available
    for extra in (0, headroom):
        roomy = [
            item for item in present if item.in_flight + item.in_flight_elsewhere < item.concurrency + extra
        ]
        if roomy:
            return roomy
    return []
