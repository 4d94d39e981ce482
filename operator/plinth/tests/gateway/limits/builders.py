"""Limits and accounts with valid defaults."""

from __future__ import annotations

from plinth.domain.access import Dimension, Limit, OnBackendAway, Scope
from plinth.gateway.access.terms import AppliedLimit, Terms
from plinth.gateway.limits.admission import Account, Limiter


def make_limit(
    dimension: Dimension = "requests", amount: int = 10, window: int = 60, scope: Scope = "key"
) -> Limit:
    return Limit(
        dimension=dimension,
        window_seconds=0 if dimension == "concurrency" else window,
        amount=amount,
        scope=scope,
    )


def make_terms(
    *limits: Limit, key: str = "pk_a", model: str = "a/m", on_backend_away: OnBackendAway = "Allow"
) -> Terms:
    of = {"key": key, "policy": "", "model": model}
    applied = tuple(AppliedLimit(f"a/p|{of[limit.scope]}", limit) for limit in limits)
    return Terms(limits=applied, on_backend_away=on_backend_away)


def make_account(
    limiter: Limiter,
    *limits: Limit,
    key: str = "pk_a",
    model: str = "a/m",
    on_backend_away: OnBackendAway = "Allow",
    now: float = 0.0,
) -> Account:
    terms = make_terms(*limits, key=key, model=model, on_backend_away=on_backend_away)
    return limiter.account(key, model, tenant="a", terms=terms, now=now)


def read_lines(lines: bytes) -> dict[bytes, bytes]:
    """Header lines by name."""
    return dict(line.split(b": ") for line in lines.split(b"\r\n") if line)
