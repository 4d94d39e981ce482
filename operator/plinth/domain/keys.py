"""API keys as they are stored: made, rotated, revoked, and turned into what the gateway admits by. Pure.

Of a secret only its SHA-256 is kept. It has 256 random bits, so neither salt nor a slow hash would add anything: those
protect what people choose, which can be guessed (NIST SP 800-63B section 5.1.2.2, look-up secrets).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from plinth.domain.access import Band, KeyRecord

SECRET_PREFIX = "sk-plinth-"  # noqa: S105 - what every secret begins with
"""What makes a leaked secret findable in code and logs."""
ID_PREFIX = "pk_"
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""A DNS label: in a cluster it becomes part of an object's name."""


class KeyTaken(Exception):  # noqa: N818 - what happened, not a fault
    """A key of this name is in use."""


class KeyUnknown(Exception):  # noqa: N818 - what happened, not a fault
    """There is no key of this name, or it was revoked."""


@dataclass(frozen=True, kw_only=True)
class StoredSecret:
    """What is kept of one secret."""

    digest: str
    """SHA-256, in hexadecimal."""
    made_at: float
    """Unix seconds, as all times of this module."""
    ends_at: float | None = None
    """When a newer one takes over for good; None for the newest."""


@dataclass(frozen=True, kw_only=True)
class StoredKey:
    """One key with all that its maker said. A revoked one is kept without secrets, as a note that it was there."""

    id: str
    name: str
    tenant: str
    made_at: float
    secrets: tuple[StoredSecret, ...]
    """The newest first."""
    policies: tuple[str, ...] = ()
    """Names of QuotaPolicies of the tenant."""
    models: tuple[str, ...] = ()
    """Names of ModelDeployments of the tenant; empty for all that its policies cover."""
    expires_at: float | None = None
    priority: Band | None = None
    revoked_at: float | None = None


def digest_of(secret: bytes) -> str:
    """What is kept of a secret, and what a shown one is found by."""
    return hashlib.sha256(secret).hexdigest()


def rotate(key: StoredKey, *, digest: str, now: float, grace_seconds: float) -> StoredKey:
    """The key with a new secret; those before it stay valid for the grace, no longer than they would have been."""
    if key.revoked_at is not None:
        raise KeyUnknown(f"the key {key.name} was revoked; make a new one")
    end = now + grace_seconds
    kept = [
        replace(each, ends_at=end if each.ends_at is None else min(each.ends_at, end))
        for each in key.secrets
        if each.ends_at is None or each.ends_at > now
    ]
    fresh = StoredSecret(digest=digest, made_at=now)
    # Without grace nothing of the old one stays: a gateway whose clock is behind would still take it.
    return replace(key, secrets=(fresh, *kept) if grace_seconds > 0 else (fresh,))


def revoke(key: StoredKey, *, now: float) -> StoredKey:
    """The key without any secret; revoking it again changes nothing."""
    return key if key.revoked_at is not None else replace(key, secrets=(), revoked_at=now)


def may_replace(key: StoredKey) -> bool:
    """Whether a new key may take this one's name."""
    return key.revoked_at is not None


def is_live(key: StoredKey, now: float) -> bool:
    """Whether it opens anything."""
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now)


def count_by_policy(keys: Iterable[StoredKey], now: float) -> Counter[str]:
    """How many keys that open anything name each policy, as `namespace/name`."""
    return Counter(
        f"{key.tenant}/{policy}" for key in keys if is_live(key, now) for policy in set(key.policies)
    )


def key_records(keys: Iterable[StoredKey]) -> tuple[KeyRecord, ...]:
    """What the gateway admits by, a record for each secret. It judges for itself which have expired."""
    return tuple(
        record for key in sorted(keys, key=lambda each: (each.tenant, each.name)) for record in _records(key)
    )


def _records(key: StoredKey) -> Iterator[KeyRecord]:
    for secret in key.secrets:
        ends = [at for at in (key.expires_at, secret.ends_at) if at is not None]
        yield KeyRecord(
            id=key.id,
            tenant=key.tenant,
            digest=secret.digest,
            policies=tuple(f"{key.tenant}/{name}" for name in key.policies),
            models=tuple(f"{key.tenant}/{name}" for name in key.models),
            expires_at=min(ends, default=None),
            priority=key.priority,
        )
