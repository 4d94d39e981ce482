"""Who may ask the gateway for what, and how much: the access table, which it gets beside the route table.

Plain frozen dataclasses, so that the gateway reads them without pydantic. They are made of QuotaPolicies and of
stored keys; the newest table replaces the old one whole, so a key that is gone from it is refused at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Band = Literal["system", "interactive", "default", "bulk"]
"""How urgent a request is; a lower band waits while a higher one has something to send."""
Dimension = Literal["requests", "inputTokens", "outputTokens", "totalTokens", "concurrency"]
"""What is counted."""
Scope = Literal["key", "policy", "model"]
"""Whose use is added up: each key's, that of all keys of the policy, or theirs on each model."""
CacheUse = Literal["Off", "Deterministic", "All"]
"""Which answers may be repeated: none, those to requests at temperature 0, or all."""
OnBackendAway = Literal["Allow", "Deny"]
"""What a request meets while the shared counters cannot be reached: a local share of the limit, or a refusal."""

BANDS: Final[tuple[Band, ...]] = ("system", "interactive", "default", "bulk")
"""From the most urgent on."""
MINUTE, HOUR, DAY = 60, 3600, 86_400


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """At most so much of one dimension within one window."""

    dimension: Dimension
    window_seconds: int
    """0 for concurrency, which counts what is under way and knows no window."""
    amount: int
    scope: Scope


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyRecord:
    """One QuotaPolicy as the gateway applies it. None says nothing; see `plinth.gateway.access.terms`."""

    name: str
    """`namespace/name`."""
    models: tuple[str, ...] = ()
    """Models it covers, as `namespace/name`; empty for all of the namespace."""
    limits: tuple[Limit, ...] = ()
    priority: Band | None = None
    queue_seconds: float | None = None
    """Longest that a request may wait for a replica."""
    weight: int | None = None
    """Share among keys that wait in one band: 2 gets twice the tokens of 1."""
    cache: CacheUse | None = None
    cache_seconds: int | None = None
    """How long an answer may be repeated."""
    on_backend_away: OnBackendAway = "Allow"


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRecord:
    """One secret that opens the API. A rotated key has two of them for a while, under the same id."""

    id: str
    """`pk_…`: may stand in logs and metrics, and is what use is counted by."""
    tenant: str
    """The namespace whose models it opens."""
    digest: str
    """SHA-256 of the secret, in hexadecimal."""
    policies: tuple[str, ...] = ()
    """`namespace/name` of each; one that does not exist opens nothing."""
    models: tuple[str, ...] = ()
    """As `namespace/name`; empty for all that its policies cover."""
    expires_at: float | None = None
    """Unix seconds, since it is a date that people set."""
    priority: Band | None = None
    """Lowers what its policies give, never raises it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AccessTable:
    """All that the gateway admits by; a new table replaces the old one whole."""

    version: int
    keys: tuple[KeyRecord, ...] = ()
    policies: tuple[PolicyRecord, ...] = ()
    requires_key: bool = True
    """False lets callers in who show no known key; they may ask for every model, without limits."""
