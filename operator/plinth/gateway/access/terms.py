"""What several policies say of one key on one model, as one set of terms. Pure; computed once for each pair, then kept.

- A policy applies where it covers the model. A key may ask for a model when some policy of it applies, or when it names
  no policies at all, and when its own list of models, if it has one, names it.
- Limits of all of them hold together. The most urgent priority counts, lowered by the key's own if that is lower.
- The greatest weight and the shortest wait count.
- Of what they say about the cache the most careful counts. `Deny` by one policy with limits is `Deny`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from plinth.domain.access import BANDS, Band, CacheUse, KeyRecord, Limit, OnBackendAway, PolicyRecord

CACHE_USES: Final[tuple[CacheUse, ...]] = ("Off", "Deterministic", "All")
"""From the most careful on."""


@dataclass(frozen=True, slots=True)
class AppliedLimit:
    """A limit, and what it is counted under: the same for all requests whose use is added up."""

    scope_id: str
    """`namespace/policy`, then `|` and the key's id or the model, as its scope has it."""
    limit: Limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """How a key's requests for one model are treated."""

    policy: str = ""
    """`namespace/name` of the first policy that applies, for metrics and logs; empty where none does."""
    limits: tuple[AppliedLimit, ...] = ()
    priority: Band = "default"
    weight: int = 1
    queue_seconds: float | None = None
    """Longest wait; None for as long as the gateway lets any request wait."""
    cache: CacheUse = "Off"
    cache_seconds: int = 0
    on_backend_away: OnBackendAway = "Allow"


def make_terms(key: KeyRecord, policies: Sequence[PolicyRecord], model: str) -> Terms | None:
    """The terms of a key with these policies for a model (`namespace/name`); None when it may not ask for it."""
    if not model.startswith(f"{key.tenant}/") or (key.models and model not in key.models):
        return None
    applied = [each for each in policies if not each.models or model in each.models]
    if key.policies and not applied:
        return None
    cache, seconds = _cache(applied)
    return Terms(
        policy=applied[0].name if applied else "",
        limits=tuple(
            AppliedLimit(_scope_id(policy, limit, key.id, model), limit)
            for policy in applied
            for limit in policy.limits
        ),
        priority=_priority(key, applied),
        weight=max((each.weight for each in applied if each.weight is not None), default=1),
        queue_seconds=min(
            (each.queue_seconds for each in applied if each.queue_seconds is not None), default=None
        ),
        cache=cache,
        cache_seconds=seconds,
        on_backend_away=(
            "Deny" if any(each.limits and each.on_backend_away == "Deny" for each in applied) else "Allow"
        ),
    )


def _scope_id(policy: PolicyRecord, limit: Limit, key_id: str, model: str) -> str:
    if limit.scope == "key":
        return f"{policy.name}|{key_id}"
    return f"{policy.name}|{model}" if limit.scope == "model" else f"{policy.name}|"


def _priority(key: KeyRecord, applied: Iterable[PolicyRecord]) -> Band:
    """Who makes keys cannot raise them above what a policy gives, nor above `default` without one."""
    said = [BANDS.index(each.priority) for each in applied if each.priority is not None]
    given = min(said, default=BANDS.index("default"))
    return BANDS[given if key.priority is None else max(given, BANDS.index(key.priority))]


def _cache(applied: Iterable[PolicyRecord]) -> tuple[CacheUse, int]:
    said = [each for each in applied if each.cache is not None]
    use = CACHE_USES[min((CACHE_USES.index(each.cache or "Off") for each in said), default=0)]
    return use, min((each.cache_seconds or 0 for each in said), default=0) if use != "Off" else 0
