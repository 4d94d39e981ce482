"""Which replica gets a request: the one with the least outstanding work. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

REQUEST_TOKENS = 32
"""What a running request weighs against prompt tokens still to be read. Decoding one request beside others costs
a prompt about 2 ms, in which an accelerator reads some 30 prompt tokens (15k a second)."""


@dataclass(slots=True)
class Standing:
    """One replica as routing sees it; kept up to date by whoever dispatches."""

    slot: str
    concurrency: int
    available: bool = True
    """It may get new requests: ready, not draining, not suspected, not cooling down."""
    in_flight: int = 0
    pending_tokens: int = 0
    """Prompt tokens of requests that have no first byte yet."""


def order(standing: Standing, avoid: Collection[str] = ()) -> tuple[bool, int, int, str]:
    """The key that the smallest wins by.

    1. replicas at which this request failed come last,
    2. outstanding work in tokens: prompts not yet answered, and 32 for each request at the replica,
    3. requests at the replica,
    4. the slot's name, which is unique: two gateways with the same view choose the same.
    """
    work = standing.pending_tokens + REQUEST_TOKENS * standing.in_flight
    return standing.slot in avoid, work, standing.in_flight, standing.slot


def choose(
    standings: Iterable[Standing], *, headroom: int = 0, avoid: Collection[str] = ()
) -> Standing | None:
    """The replica for one request, or None when all are busy or away and the request must be held.

    A replica has room below its concurrency; `headroom` more are given out only when every replica that is
    available has reached it.
    """
    present = [standing for standing in standings if standing.available]
    roomy = [item for item in present if item.in_flight < item.concurrency]
    if not roomy and headroom:
        roomy = [item for item in present if item.in_flight < item.concurrency + headroom]
    if len(roomy) <= 1:
        return roomy[0] if roomy else None
    return min(roomy, key=lambda item: order(item, avoid))
