"""The operator's numbers under /metrics. What the last pass knows is read from it at the scrape, not kept beside it."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Callable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from plinth.controllers.cycle import Pass
from plinth.domain.fleet import NodeState

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0)


class OperatorMetrics:
    """Counts what happens, and reads the rest when asked."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._cycle = Histogram(
            "plinth_cycle_seconds",
            "How long a pass of the fleet cycle took.",
            buckets=SECONDS,
            registry=self._registry,
        )
        self._steps = Histogram(
            "plinth_cycle_step_seconds",
            "How long each step of a pass took: gather, plan, execute, status.",
            ["step"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._failures = Counter(
            "plinth_cycle_failures_total",
            "Passes that failed, by the fault.",
            ["reason"],
            registry=self._registry,
        )
        self._requests = Counter(
            "plinth_kubernetes_requests_total",
            "Calls of the Kubernetes API by verb and status; status 0 is no answer.",
            ["verb", "code"],
            registry=self._registry,
        )
        self._view = _View(clock)
        self._registry.register(self._view)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def read_from(self, *, leads: Callable[[], bool], status_queue: Callable[[], int]) -> None:
        """Where to look at a scrape for what changes all the time."""
        self._view.leads, self._view.status_queue = leads, status_queue

    def take_pass(self, done: Pass) -> None:
        """A pass has ended well."""
        self._cycle.observe(done.took_seconds)
        for step, seconds in done.step_seconds.items():
            self._steps.labels(step).observe(seconds)
        self._view.take(done)

    def take_failure(self, error: Exception) -> None:
        """A pass has failed."""
        self._failures.labels(type(error).__name__).inc()

    def take_answer(self, verb: str, status: int) -> None:
        """The API server answered, or with status 0 did not."""
        self._requests.labels(verb, str(status)).inc()

    def forget_fleet(self) -> None:
        """This replica no longer leads: what it knew of the fleet grows old."""
        self._view.latest = None

    def page(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)


class _View(Collector):
    """What the last pass found and decided."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.leads: Callable[[], bool] = lambda: False
        self.status_queue: Callable[[], int] = lambda: 0
        self.latest: Pass | None = None
        self._latest_at = 0.0

    def take(self, done: Pass) -> None:
        self.latest, self._latest_at = done, self._clock()

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("plinth_leader", "Whether this replica leads.", value=float(self.leads()))
        yield GaugeMetricFamily(
            "plinth_status_queue", "Statuses not yet written to the API server.", value=self.status_queue()
        )
        if self.latest is None:
            return
        yield GaugeMetricFamily(
            "plinth_plan_age_seconds",
            "How old the last plan is.",
            value=self._clock() - self._latest_at,
        )
        yield from self._fleet(self.latest)

    @staticmethod
    def _fleet(done: Pass) -> Iterator[Metric]:
        models = Count(status.reason for status in done.statuses.models.values())
        yield _family("plinth_models", "Models by what matters most about them now.", ("reason",), models)
        replicas = Count(slot.phase.value for slot in done.snapshot.slots)
        yield _family("plinth_replicas", "Replicas by how far they are.", ("phase",), replicas)
        present = Count(node.pool for node in done.snapshot.nodes if node.state is not NodeState.POTENTIAL)
        yield _family("plinth_workers_present", "Ray workers that are there.", ("pool",), present)
        wanted = {pool.name: sum(group.workers for group in pool.workers) for pool in done.plan.pools}
        yield _family("plinth_workers_wanted", "Ray workers that the plan asks for.", ("pool",), wanted)


def _family(name: str, text: str, labels: tuple[str], values: dict[str, int] | Count[str]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for label, value in sorted(values.items()):
        family.add_metric([label], value)
    return family
