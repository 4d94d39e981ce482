"""The numbers under /metrics. Counting is a list's element going up; Prometheus' objects are made at the scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from plinth.gateway.telemetry.families import PREFIX, RequestFamilies
from plinth.gateway.telemetry.series import Counter

Gauges = Callable[[], Iterable[tuple[str, str, list[str], list[tuple[list[str], float]]]]]


class Metrics(Collector):
    """All that the gateway measures of itself, with what it counts of finished requests."""

    def __init__(self) -> None:
        self.retries = _counter("retries", "Attempts beyond a request's first.", "model", "reason")
        self.disconnects = _counter("client_disconnects", "Clients that hung up before the end.", "model")
        self.broken = _counter("broken_streams", "Answers that broke after their first byte.", "model")
        self.resumed = _counter("resumed_streams", "Broken streams that went on at another replica.", "model")
        self.ejections = _counter("replica_ejections", "Replicas left out, being out of line.", "model")
        self.deaths = _counter("replica_deaths", "Replicas seen dead.", "model")
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
            if isinstance(item, Counter):
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


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(PREFIX + name, text, labels)
