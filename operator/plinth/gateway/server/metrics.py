"""The numbers under /metrics. Counting is a list's element going up; Prometheus' objects are made at the scrape."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from plinth.gateway.telemetry.families import RequestFamilies

PREFIX = "plinth_gateway_"
_DURATION = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_TPOT = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
_OVERHEAD = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 1.0)
_MOST_SERIES = 4096
"""Label sets of one metric; what comes after is left out, so that memory is bounded."""

Gauges = Callable[[], Iterable[tuple[str, str, list[str], list[tuple[list[str], float]]]]]


class Counter:
    """Counts by labels."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self.name, self.text, self.labels = name, text, labels
        self.values: dict[tuple[str, ...], float] = {}

    def add(self, labels: tuple[str, ...], amount: float = 1) -> None:
        """Goes up."""
        values = self.values
        if labels in values or len(values) < _MOST_SERIES:
            values[labels] = values.get(labels, 0) + amount

    def family(self) -> Metric:
        """As Prometheus wants it."""
        family = CounterMetricFamily(PREFIX + self.name, self.text, labels=self.labels)
        for labels, value in self.values.items():
            family.add_metric(labels, value)
        return family


class Histogram:
    """Seconds by model."""

    def __init__(self, name: str, text: str, bounds: tuple[float, ...]) -> None:
        self.name, self.text, self.bounds = name, text, bounds
        self.counts: dict[str, list[int]] = {}
        self.sums: dict[str, float] = {}

    def observe(self, model: str, seconds: float) -> None:
        """Counts one."""
        counts = self.counts.get(model)
        if counts is None:
            if len(self.counts) >= _MOST_SERIES:
                return
            counts = self.counts[model] = [0] * (len(self.bounds) + 1)
            self.sums[model] = 0.0
        counts[bisect_left(self.bounds, seconds)] += 1
        self.sums[model] += seconds

    def family(self) -> Metric:
        """As Prometheus wants it."""
        family = HistogramMetricFamily(PREFIX + self.name, self.text, labels=["model"])
        names = [f"{bound:g}" for bound in self.bounds] + ["+Inf"]
        for model, counts in self.counts.items():
            buckets = list(zip(names, accumulate(counts), strict=True))
            family.add_metric([model], buckets, sum_value=self.sums[model])
        return family


class Metrics(Collector):
    """All that the gateway measures of itself."""

    def __init__(self) -> None:
        self.requests = Counter(
            "requests", "Requests answered, by status code.", ("model", "endpoint", "code")
        )
        self.retries = Counter("retries", "Attempts beyond a request's first.", ("model", "reason"))
        self.disconnects = Counter("client_disconnects", "Clients that hung up before the end.", ("model",))
        self.broken = Counter("broken_streams", "Answers that broke after their first byte.", ("model",))
        self.resumed = Counter(
            "resumed_streams", "Broken streams that went on at another replica.", ("model",)
        )
        self.ejections = Counter("replica_ejections", "Replicas left out, being out of line.", ("model",))
        self.deaths = Counter("replica_deaths", "Replicas seen dead.", ("model",))
        self.output_tokens = Counter(
            "output_tokens", "Tokens generated, from usage or estimated.", ("model",)
        )
        self.prompt_tokens = Counter("prompt_tokens", "Tokens read, from usage or estimated.", ("model",))
        self.duration = Histogram("request_duration_seconds", "From arrival to the last byte.", _DURATION)
        self.ttft = Histogram(
            "time_to_first_token_seconds", "From arrival to a stream's first event.", _DURATION
        )
        self.tpot = Histogram("time_per_output_token_seconds", "Between tokens after the first.", _TPOT)
        self.held = Histogram("held_seconds", "Waiting for room at a replica.", _DURATION)
        self.overhead = Histogram(
            "overhead_seconds",
            "From readable to sent on, waiting for a handler included, waiting for room or a connection not.",
            _OVERHEAD,
        )
        self._gauges: Gauges = tuple
        self._families: RequestFamilies | None = None
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def read_gauges_from(self, gauges: Gauges) -> None:
        """Names the source of what is read at the scrape: (name, text, labels, samples)."""
        self._gauges = gauges

    def read_families_from(self, families: RequestFamilies) -> None:
        """Names the source of what is counted of finished requests."""
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Everything, for the registry."""
        for item in vars(self).values():
            if isinstance(item, (Counter, Histogram)):
                yield item.family()
        if self._families is not None:
            yield from self._families.families()
        for name, text, labels, samples in self._gauges():
            family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
            for values, value in samples:
                family.add_metric(values, value)
            yield family

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)
