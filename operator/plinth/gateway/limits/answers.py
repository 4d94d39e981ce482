"""What a client is told of its limits: headers beside every answer, and refusals with the time to come back. Pure.

Header names and forms are OpenAI's (`x-ratelimit-reset-tokens: 6m0s`). Its clients obey `x-should-retry` first, then
`retry-after-ms`, then `retry-after`, and ignore the latter two beyond 60 s (`openai` 2.54.0, `_base_client.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf
from typing import Final

from plinth.domain.access import DAY, Limit
from plinth.gateway.protocol.errors import Refusal

Header = tuple[bytes, bytes]

LONGEST_RETRY_SECONDS: Final = 60.0
"""Clients wait no longer of their own; telling them to try again would bring them back too early."""
JITTER: Final = 0.1
"""Refused clients come back spread over that share of their wait, never before it is over."""
REQUEST_HEADERS: Final = (
    b"x-ratelimit-limit-requests",
    b"x-ratelimit-remaining-requests",
    b"x-ratelimit-reset-requests",
)
TOKEN_HEADERS: Final = (
    b"x-ratelimit-limit-tokens",
    b"x-ratelimit-remaining-tokens",
    b"x-ratelimit-reset-tokens",
)
_NAMES: Final = {
    "requests": "requests",
    "inputTokens": "input tokens",
    "outputTokens": "output tokens",
    "totalTokens": "tokens",
    "concurrency": "requests at once",
}


@dataclass(frozen=True, slots=True)
class Denial:
    """A refusal and the headers that go with it beyond those of every refusal."""

    refusal: Refusal
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True)
class Shortage:
    """Which limit had no room, and for what."""

    limit: Limit
    policy: str
    used: float
    cost: float
    wait: float
    """Seconds; infinite when the request is larger than the limit."""


def deny(shortage: Shortage, spread: float) -> Denial:
    """403 for a quota of a day or longer, 429 for a rate. `spread` in [0, 1) tells apart clients refused together."""
    limit, wait = shortage.limit, shortage.wait
    text = (
        f"{describe(limit)} of policy {shortage.policy}: limit {limit.amount}, used {ceil(shortage.used)}, "
        f"requested {ceil(shortage.cost)}"
    )
    kind = "requests" if limit.dimension in {"requests", "concurrency"} else "tokens"
    if wait == inf:
        text = f"request too large for {text}. Ask for less at once"
        return Denial(Refusal(429, "rate_limit_exceeded", text, kind, should_retry=False))
    wait *= 1.0 + JITTER * spread
    after = (b"retry-after-ms", b"%d" % ceil(wait * 1000))
    seconds = max(1, ceil(wait))
    text = f"{text}. Try again in {format_duration(wait)}"
    if limit.window_seconds >= DAY:
        refusal = Refusal(
            403,
            "insufficient_quota",
            f"quota exhausted: {text}",
            "insufficient_quota",
            retry_after=seconds,
            should_retry=False,
        )
        return Denial(refusal, (after,))
    refusal = Refusal(
        429,
        "rate_limit_exceeded",
        f"rate limit reached: {text}",
        kind,
        retry_after=seconds,
        should_retry=wait <= LONGEST_RETRY_SECONDS,
    )
    return Denial(refusal, (after,))


def deny_unseen(policy: str) -> Denial:
    """The shared counters are away and the policy lets nobody through without them."""
    text = f"use cannot be counted now, and policy {policy} lets no request through uncounted"
    return Denial(
        Refusal(503, "quota_backend_away", text, "overloaded_error", retry_after=2, should_retry=True)
    )


def describe(limit: Limit) -> str:
    """As in `tokens per 60 s`.

    >>> describe(Limit(dimension="outputTokens", window_seconds=86400, amount=1, scope="key"))
    'output tokens per day'
    """
    name = _NAMES[limit.dimension]
    if limit.dimension == "concurrency":
        return name
    unit = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}.get(limit.window_seconds)
    return f"{name} per {unit or f'{limit.window_seconds} s'}"


def format_duration(seconds: float) -> str:
    """As OpenAI writes a reset: `20ms`, `1.5s`, `6m0s`, `1h2m3s`.

    >>> format_duration(0.0199), format_duration(1.5), format_duration(360), format_duration(3723)
    ('20ms', '1.5s', '6m0s', '1h2m3s')
    """
    if seconds < 1.0:
        return f"{ceil(seconds * 1000)}ms" if seconds < 0.9995 else "1s"  # noqa: PLR2004 - 1000 ms are a second
    if seconds < 60.0:  # noqa: PLR2004 - a minute
        return f"{ceil(seconds * 1000) / 1000:g}s"
    minutes, rest = divmod(ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def limit_lines(names: tuple[bytes, bytes, bytes], limit: float, used: float, reset: float) -> bytes:
    """Header lines: what is left of the limit that is nearest to its end, and the time until all of it is there again."""
    left = limit - used
    return b"%b: %d\r\n%b: %d\r\n%b: %b\r\n" % (
        names[0],
        limit,
        names[1],
        left if left > 0.0 else 0,
        names[2],
        format_duration(reset).encode(),
    )
