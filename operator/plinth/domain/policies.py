"""A QuotaPolicy as the gateway applies it, read from the document that the API server or a folder has. Pure.

It is read as a plain mapping: in a cluster the agent beside each gateway does it, which must not load pydantic. The API
server has checked and filled it in by then, and a folder gives it as the models write it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from plinth.domain.access import (
    DAY,
    HOUR,
    MINUTE,
    AccessTable,
    Band,
    CacheUse,
    Dimension,
    Limit,
    OnBackendAway,
    PolicyRecord,
    Scope,
)
from plinth.domain.keys import StoredKey, key_records

Document = Mapping[str, Any]

SCOPES: dict[str, Scope] = {"perKey": "key", "shared": "policy", "perModel": "model"}
FIELDS: dict[str, tuple[Dimension, int]] = {
    "requestsPerSecond": ("requests", 1),
    "requestsPerMinute": ("requests", MINUTE),
    "requestsPerHour": ("requests", HOUR),
    "inputTokensPerMinute": ("inputTokens", MINUTE),
    "inputTokensPerDay": ("inputTokens", DAY),
    "outputTokensPerMinute": ("outputTokens", MINUTE),
    "outputTokensPerDay": ("outputTokens", DAY),
    "totalTokensPerMinute": ("totalTokens", MINUTE),
    "totalTokensPerDay": ("totalTokens", DAY),
    "concurrency": ("concurrency", 0),
}
"""Of an allowance: what is counted, within how many seconds."""
WHOSE = {"key": "each key", "policy": "all keys together", "model": "all keys together on each model"}
WHAT = {
    "requests": "requests",
    "inputTokens": "input tokens",
    "outputTokens": "output tokens",
    "totalTokens": "tokens",
}
SPANS = {1: "a second", MINUTE: "a minute", HOUR: "an hour", DAY: "a day"}


def access_table(
    keys: Iterable[StoredKey], policies: Iterable[Document], *, requires_key: bool, version: int
) -> AccessTable:
    """Everything the gateway admits by; equal input in any order gives equal tables."""
    records = sorted((policy_record(each) for each in policies), key=lambda each: each.name)
    return AccessTable(
        version=version, keys=key_records(keys), policies=tuple(records), requires_key=requires_key
    )


def policy_record(document: Document) -> PolicyRecord:
    """One policy. Raises KeyError, TypeError or ValueError where the document is not one that its schema takes."""
    metadata, spec = document["metadata"], document.get("spec") or {}
    namespace = metadata.get("namespace") or "default"
    queue, cache = spec.get("queue") or {}, spec.get("cache") or {}
    priority, wait, answers = spec.get("priority"), queue.get("maxWaitSeconds"), cache.get("answers")
    return PolicyRecord(
        name=f"{namespace}/{metadata['name']}",
        models=tuple(f"{namespace}/{name}" for name in spec.get("models") or ()),
        limits=tuple(_limits(spec.get("limits") or {})),
        priority=cast("Band", priority.lower()) if priority else None,
        queue_seconds=None if wait is None else float(wait),
        weight=queue.get("weight"),
        cache=cast("CacheUse", answers) if answers else None,
        cache_seconds=cache.get("ttlSeconds") if answers else None,
        on_backend_away=cast("OnBackendAway", spec.get("onBackendAway") or "Allow"),
    )


def limit_in_words(limit: Limit) -> str:
    """One limit as its status says it: `each key: 60 requests a minute`."""
    if limit.dimension == "concurrency":
        return f"{WHOSE[limit.scope]}: {limit.amount} requests at once"
    return f"{WHOSE[limit.scope]}: {limit.amount} {WHAT[limit.dimension]} {SPANS[limit.window_seconds]}"


def _limits(limits: Document) -> Iterator[Limit]:
    for part, scope in SCOPES.items():
        allowance = limits.get(part) or {}
        for field, (dimension, seconds) in FIELDS.items():
            if allowance.get(field) is not None:
                yield Limit(
                    dimension=dimension, window_seconds=seconds, amount=int(allowance[field]), scope=scope
                )
