"""What is counted of finished requests, by model, policy and band. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import Metric

from plinth.gateway.telemetry.record import RequestRecord
from plinth.gateway.telemetry.series import Counter, Histogram, Series, TopLabels

PREFIX: Final = "plinth_gateway_"
_MOST_POLICIES: Final = 50
_SECONDS: Final[tuple[float, ...]] = (
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
)
_TPOT_SECONDS: Final[tuple[float, ...]] = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.015,
    0.02,
    0.03,
    0.04,
    0.05,
    0.075,
    0.1,
    0.2,
    0.5,
    1.0,
)
_OVERHEAD_SECONDS: Final[tuple[float, ...]] = (
    0.00002,
    0.00005,
    0.0001,
    0.0002,
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.05,
    0.1,
    1.0,
)
_BY_POLICY: Final[tuple[str, ...]] = ("requests", "prompt_tokens", "output_tokens", "refusals")
ENDING: Final = frozenset(f"{PREFIX}{name}_total" for name in _BY_POLICY)
"""Metrics whose series end when their policy falls out of the top, as a scrape names them."""
REPEATED: Final[tuple[str, ...]] = ("hit", "fwd=miss; collapsed")
"""What the cache did for requests that nothing was computed for."""
_BAND: Final[tuple[str, ...]] = ("model", "band")
_MOST_TALLIES: Final = 4096
Labels = tuple[str, str, str, str, int]
"""Model, policy, band, path and status."""


class _Tally:
    """What requests with the same labels have in common: found once for each request, in the place of every series."""

    __slots__ = (
        "duration",
        "first_token",
        "output_tokens",
        "overhead",
        "policy",
        "prompt_tokens",
        "queued",
        "requests",
        "tpot",
    )

    def __init__(
        self,
        policy: str,
        *,
        duration: Series,
        queued: Series,
        first_token: Series,
        tpot: Series,
        overhead: Series,
    ) -> None:
        self.policy = policy
        """As its series are labelled until the next scrape."""
        self.requests = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        """These three since the last scrape."""
        self.duration = duration
        self.queued = queued
        self.first_token = first_token
        self.tpot = tpot
        self.overhead = overhead


class RequestFamilies:
    """Told of each finished request once. Bounded: models are those of the route table, policies the top 50."""

    def __init__(self) -> None:
        self._policies = TopLabels(_MOST_POLICIES)
        self._tallies: dict[Labels, _Tally] = {}
        """Since the last scrape."""
        requests, prompt, output, refusals = (PREFIX + name for name in _BY_POLICY)
        self._requests = Counter(
            requests, "Requests answered, by status code.", ("model", "policy", "endpoint", "code")
        )
        self._prompt = Counter(prompt, "Tokens read, from usage or estimated.", ("model", "policy"))
        self._output = Counter(output, "Tokens generated, from usage or estimated.", ("model", "policy"))
        self._refusals = Counter(refusals, "Requests refused, and streams broken.", ("policy", "reason"))
        self._duration = _histogram("request_duration_seconds", "From arrival to the last byte.", ("model",))
        self._queued = _histogram("held_seconds", "Waiting for room at a replica.", _BAND)
        self._first_token = _histogram(
            "time_to_first_token_seconds", "From arrival to a stream's first event.", _BAND
        )
        self._tpot = _histogram(
            "time_per_output_token_seconds", "Between tokens after the first.", ("model",), _TPOT_SECONDS
        )
        self._overhead = _histogram(
            "overhead_seconds",
            "From readable to sent on, waiting for a handler included, waiting for room or a connection not.",
            ("model",),
            _OVERHEAD_SECONDS,
        )
        self._cache = Counter(PREFIX + "cache_answers", "What the response cache did.", ("model", "outcome"))
        self._saved = Counter(
            PREFIX + "cache_saved_tokens", "Tokens not computed, since an answer was repeated.", ("model",)
        )

    def count(self, record: RequestRecord) -> None:
        """One request is over."""
        labels = (record.model, record.policy, record.band, record.path, record.status)
        tally = self._tallies.get(labels)
        if tally is None:
            tally = self._begin(labels)
        tally.requests += 1
        if record.error:
            self._refusals.add((tally.policy, record.error))
        if not record.model:
            return
        tally.duration.observe(record.duration)
        if record.cache:
            self._count_cache(record)
        if record.cache not in REPEATED:
            self._count_computed(record, tally)

    def _begin(self, labels: Labels) -> _Tally:
        model, policy, band, _, _ = labels
        if len(self._tallies) >= _MOST_TALLIES:
            self._add_up()
        tally = self._tallies[labels] = _Tally(
            self._policies.label(policy),
            duration=self._duration.of((model,)),
            queued=self._queued.of((model, band)),
            first_token=self._first_token.of((model, band)),
            tpot=self._tpot.of((model,)),
            overhead=self._overhead.of((model,)),
        )
        return tally

    def _add_up(self) -> None:
        for (model, policy, _, path, status), tally in self._tallies.items():
            self._policies.use(policy, tally.requests - 1)  # one was counted when it began
            self._requests.add((model, tally.policy, path, str(status)), tally.requests)
            if tally.prompt_tokens:
                self._prompt.add((model, tally.policy), tally.prompt_tokens)
            if tally.output_tokens:
                self._output.add((model, tally.policy), tally.output_tokens)
        self._tallies.clear()

    @staticmethod
    def _count_computed(record: RequestRecord, tally: _Tally) -> None:
        tally.prompt_tokens += record.prompt_tokens
        tally.output_tokens += record.output_tokens
        if record.attempts:
            tally.queued.observe(record.queued)
            tally.overhead.observe(record.overhead)
        if record.first_token is not None:
            tally.first_token.observe(record.first_token)
        if record.tpot is not None:
            tally.tpot.observe(record.tpot)

    def _count_cache(self, record: RequestRecord) -> None:
        self._cache.add((record.model, record.cache))
        if record.cache in REPEATED:
            self._saved.add((record.model,), record.prompt_tokens + record.output_tokens)

    def families(self) -> Iterator[Metric]:
        """For a scrape; policies rise and fall here."""
        self._add_up()
        gone = self._policies.rank()
        for counter in (self._requests, self._prompt, self._output, self._refusals):
            if gone:
                counter.end("policy", gone)
            yield counter.family()
        for item in (
            self._duration,
            self._queued,
            self._first_token,
            self._tpot,
            self._overhead,
            self._cache,
            self._saved,
        ):
            yield item.family()


def _histogram(
    name: str, text: str, labels: tuple[str, ...], bounds: tuple[float, ...] = _SECONDS
) -> Histogram:
    return Histogram(PREFIX + name, text, labels=labels, bounds=bounds)
