"""QuotaPolicy: how much the holders of its keys may ask of a namespace's models, how urgently, and what of it is cached.

A key names its policies; the gateway applies them. Nothing here is about GPUs: those are given out by models.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from plinth.api.v1alpha1.meta import (
    API_VERSION,
    Conditions,
    DnsLabel,
    Int,
    ObjectMeta,
    Observed,
    Resource,
    ResourceKey,
)

MOST = 1_000_000_000_000_000
"""A bound on amounts, so that sums of them stay whole numbers in every language."""


class Urgency(StrEnum):
    """The band in which a request waits for a replica."""

    SYSTEM = "System"
    INTERACTIVE = "Interactive"
    DEFAULT = "Default"
    BULK = "Bulk"


class CachedAnswers(StrEnum):
    """Which answers may be given again to an equal request of the same namespace."""

    OFF = "Off"
    DETERMINISTIC = "Deterministic"
    ALL = "All"


class OnBackendAway(StrEnum):
    """What a request meets while the counters that gateways share cannot be reached."""

    ALLOW = "Allow"
    DENY = "Deny"


class Allowance(Resource):
    """At most so much; what is absent has no limit.

    There is no moment at which a count begins anew: room comes back steadily, as what was used grows old.
    """

    requests_per_second: Int | None = Field(default=None, ge=1, le=MOST)
    """Requests a second."""
    requests_per_minute: Int | None = Field(default=None, ge=1, le=MOST)
    """Requests a minute."""
    requests_per_hour: Int | None = Field(default=None, ge=1, le=MOST)
    """Requests an hour."""
    input_tokens_per_minute: Int | None = Field(default=None, ge=1, le=MOST)
    """Tokens of prompts a minute."""
    input_tokens_per_day: Int | None = Field(default=None, ge=1, le=MOST)
    """Tokens of prompts a day."""
    output_tokens_per_minute: Int | None = Field(default=None, ge=1, le=MOST)
    """Tokens of answers a minute."""
    output_tokens_per_day: Int | None = Field(default=None, ge=1, le=MOST)
    """Tokens of answers a day."""
    total_tokens_per_minute: Int | None = Field(default=None, ge=1, le=MOST)
    """Tokens of prompts and answers together a minute."""
    total_tokens_per_day: Int | None = Field(default=None, ge=1, le=MOST)
    """Tokens of prompts and answers together a day."""
    concurrency: Int | None = Field(default=None, ge=1, le=MOST)
    """Requests under way at once, those that wait for a replica included."""


class QuotaLimits(Resource):
    """Limits, by whose use is added up. All of them hold at once."""

    per_key: Allowance = Field(default_factory=Allowance)
    """For each key by itself."""
    shared: Allowance = Field(default_factory=Allowance)
    """For all keys of the policy together."""
    per_model: Allowance = Field(default_factory=Allowance)
    """For all keys of the policy together, on each model by itself."""


class QueueTerms(Resource):
    """How requests wait while every replica is busy."""

    max_wait_seconds: Int | None = Field(default=None, ge=1, le=3600)
    """Longest that a request waits; absent, as long as the gateway lets any wait."""
    weight: Int | None = Field(default=None, ge=1, le=100)
    """Share among the keys that wait in one band: 2 gets twice the tokens of 1, which is what absent means."""


class CacheTerms(Resource):
    """Which answers are kept and given again."""

    answers: CachedAnswers | None = None
    """Answers to no request, to those at temperature 0, or to all. Absent, what the key's other policies say, else
    `Off`."""
    ttl_seconds: Int = Field(default=300, ge=1, le=604_800)
    """How long an answer may be given again."""


class QuotaPolicySpec(Resource):
    """What the holders of its keys may do."""

    models: list[DnsLabel] = Field(default_factory=list, max_length=64)
    """ModelDeployments of this namespace that the policy opens, and that its limits count; empty for all of them."""
    limits: QuotaLimits = Field(default_factory=QuotaLimits)
    """How much may be used."""
    priority: Urgency | None = None
    """How urgent its requests are: while a higher band waits, lower ones do too. Absent, what the key's other policies
    say, else `Default`."""
    queue: QueueTerms = Field(default_factory=QueueTerms)
    """How requests wait."""
    cache: CacheTerms = Field(default_factory=CacheTerms)
    """Which answers may be repeated."""
    on_backend_away: OnBackendAway = OnBackendAway.ALLOW
    """What happens while the counters that gateways share cannot be reached: each gateway allows its share of the limits,
    or denies."""


class QuotaPolicyStatus(Observed):
    """What became of it."""

    observed_generation: Int = 0
    """The generation of the spec that this status is about."""
    keys: Int = 0
    """Keys that name the policy and have not expired."""
    limits: list[Annotated[str, StringConstraints(max_length=1024)]] = Field(
        default_factory=list, max_length=32
    )
    """The limits in words."""
    reason: str = Field(default="", max_length=1024)
    """The reason of the condition that matters most now."""
    conditions: Conditions = Field(default_factory=list)
    """The policy's state, aspect by aspect."""


class QuotaPolicy(Resource):
    """Limits, priority and caching for API keys."""

    api_version: Literal["plinth.dev/v1alpha1"] = API_VERSION
    """The version of this API."""
    kind: Literal["QuotaPolicy"] = "QuotaPolicy"
    """The kind of this resource."""
    metadata: ObjectMeta
    """Name, namespace and labels."""
    spec: QuotaPolicySpec = Field(default_factory=QuotaPolicySpec)
    """What is asked for."""
    status: QuotaPolicyStatus = Field(default_factory=QuotaPolicyStatus)
    """What became of it."""

    @property
    def key(self) -> ResourceKey:
        """What names this resource."""
        return ResourceKey(self.kind, self.metadata.namespace, self.metadata.name)
