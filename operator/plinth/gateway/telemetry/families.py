"""What is counted of finished requests beside the model: by policy and band, and what the cache saved. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from plinth.gateway.telemetry.record import RequestRecord
from plinth.gateway.telemetry.series import Counter, Histogram, TopLabels

PREFIX = "plinth_gateway_"
_MOST_POLICIES = 50
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_BY_POLICY = ("policy_requests", "policy_tokens", "refusals")
ENDING = frozenset(f"{PREFIX}{name}_total" for name in _BY_POLICY)
"""Metrics whose series end when their policy falls out of the top, as a scrape names them."""
_REPEATED = ("hit", "fwd=miss; collapsed")


class RequestFamilies:
    """Told of each finished request once. Bounded: models are those of the route table, policies the top 50."""

    def __init__(self) -> None:
        self._policies = TopLabels(_MOST_POLICIES)
        requests, tokens, refusals = (PREFIX + name for name in _BY_POLICY)
        self._requests = Counter(requests, "Requests answered.", ("policy", "model", "code"))
        self._tokens = Counter(tokens, "Tokens computed.", ("policy", "model", "direction"))
        self._refusals = Counter(refusals, "Requests refused.", ("policy", "reason"))
        self._queued = Histogram(
            PREFIX + "band_queued_seconds",
            "Waiting for room at a replica.",
            labels=("model", "band"),
            bounds=_SECONDS,
        )
        self._first_token = Histogram(
            PREFIX + "band_time_to_first_token_seconds",
            "From arrival to a stream's first token.",
            labels=("model", "band"),
            bounds=_SECONDS,
        )
        self._cache = Counter(PREFIX + "cache_answers", "What the response cache did.", ("model", "outcome"))
        self._saved = Counter(
            PREFIX + "cache_saved_tokens", "Tokens not computed, since an answer was repeated.", ("model",)
        )

    def count(self, record: RequestRecord) -> None:
        """One request is over."""
        model = record.model
        policy = self._policies.label(record.policy)
        self._requests.add((policy, model, str(record.status)))
        if record.error:
            self._refusals.add((policy, record.error))
        repeated = record.cache in _REPEATED
        if record.cache:
            self._cache.add((model, record.cache))
        if repeated:
            self._saved.add((model,), record.prompt_tokens + record.output_tokens)
        elif record.output_tokens or record.prompt_tokens:
            self._tokens.add((policy, model, "input"), record.prompt_tokens)
            self._tokens.add((policy, model, "output"), record.output_tokens)
        if record.attempts:
            self._queued.observe((model, record.band), record.queued)
        if record.first_token is not None and not repeated:
            self._first_token.observe((model, record.band), record.first_token)

    def families(self) -> Iterator[Metric]:
        """For a scrape; policies rise and fall here."""
        gone = self._policies.rank()
        for counter in (self._requests, self._tokens, self._refusals):
            if gone:
                counter.end("policy", gone)
            yield counter.family()
        for item in (self._queued, self._first_token, self._cache, self._saved):
            yield item.family()
