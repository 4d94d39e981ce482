"""Several workers' metrics as one exposition, read back with Prometheus' own parser."""

from __future__ import annotations

from typing import Any

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from plinth.gateway.server.merged_metrics import MetricsMerge
from plinth.gateway.server.metrics import Metrics
from plinth.gateway.telemetry.families import ENDING, RequestFamilies
from plinth.gateway.telemetry.record import RequestRecord


def make_record(model: str, **fields: Any) -> RequestRecord:
    whole = {
        "request_id": "r",
        "began_at": 0.0,
        "duration": 1.0,
        "method": "POST",
        "path": "/v1/x",
        "status": 200,
    }
    return RequestRecord(model=model, **{**whole, **fields})


def make_text(
    *, retries: int = 0, seconds: tuple[float, ...] = (), model: str = "a", replicas: int = 2
) -> str:
    metrics = Metrics()
    metrics.read_gauges_from(
        lambda: [
            ("replicas", "Seen.", ["model"], [([model], replicas)]),
            ("in_flight_requests", "Now.", ["model"], [([model], retries)]),
        ]
    )
    families = RequestFamilies()
    metrics.read_families_from(families)
    if retries:
        metrics.retries.add((model, "connection_lost"), retries)
    for item in seconds:
        families.count(make_record(model, first_token=item))
    return metrics.text().decode()


def read(text: str) -> dict[tuple[str, str, str], float]:
    """By sample name, model and bound."""
    return {
        (sample.name, sample.labels.get("model", ""), sample.labels.get("le", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


TTFT = "plinth_gateway_time_to_first_token_seconds"


def test_counters_histograms_and_gauges_add_up_unless_told_otherwise() -> None:
    merge = MetricsMerge({"plinth_gateway_replicas": max})
    merge.take(1, make_text(retries=3, seconds=(0.02, 40.0)))
    merge.take(2, make_text(retries=4, seconds=(0.02,)))
    found = read(merge.text())
    assert found["plinth_gateway_retries_total", "a", ""] == 7
    assert found[f"{TTFT}_bucket", "a", "0.025"] == 2
    assert found[f"{TTFT}_bucket", "a", "+Inf"] == found[f"{TTFT}_count", "a", ""] == 3
    assert found["plinth_gateway_in_flight_requests", "a", ""] == 7
    assert found["plinth_gateway_replicas", "a", ""] == 2


def test_what_only_one_worker_has_seen_stands_with_its_family() -> None:
    merge = MetricsMerge({})
    merge.take(1, make_text(retries=1, seconds=(1.0,)))
    merge.take(2, make_text(retries=2, seconds=(1.0,), model='b "quoted" and spaced'))
    text = merge.text()
    assert text.count(f"# TYPE {TTFT} histogram") == 1
    assert read(text)["plinth_gateway_retries_total", 'b "quoted" and spaced', ""] == 2


def test_a_dead_workers_counts_stay_and_its_gauges_go() -> None:
    merge = MetricsMerge({})
    merge.take(1, make_text(retries=3, seconds=(0.5,)))
    merge.take(2, make_text(retries=4))
    before = read(merge.text())
    merge.bury(1)
    after = read(merge.text())
    assert after["plinth_gateway_retries_total", "a", ""] == 7
    assert after[f"{TTFT}_sum", "a", ""] == before[f"{TTFT}_sum", "a", ""] == 0.5
    assert after["plinth_gateway_in_flight_requests", "a", ""] == 4
    merge.take(3, make_text(retries=5))
    merge.bury(2)
    assert read(merge.text())["plinth_gateway_retries_total", "a", ""] == 12


def test_the_parents_own_metrics_stand_beside_the_workers() -> None:
    merge = MetricsMerge({})
    merge.take(1, make_text(retries=3))
    own = "# HELP plinth_gateway_workers W.\n# TYPE plinth_gateway_workers gauge\nplinth_gateway_workers 2\n"
    assert read(merge.text(own))["plinth_gateway_workers", "", ""] == 2


def test_one_workers_metrics_come_out_as_they_went_in() -> None:
    text = make_text(retries=3, seconds=(0.5, 700.0))
    merge = MetricsMerge({})
    merge.take(1, text)
    assert merge.text() == text


# --- series that end -----------------------------------------------------------------------------------------


class Shown:
    """One worker's metrics by policy, as it shows them."""

    def __init__(self) -> None:
        self._families = RequestFamilies()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self.collect = self._families.families

    def count(self, policy: str, requests: int) -> None:
        for _ in range(requests):
            self._families.count(make_record("a/m", policy=policy))

    def text(self) -> str:
        return generate_latest(self._registry).decode()

    def lose(self, policy: str) -> None:
        """Fifty others are asked for, much more often."""
        while f'policy="{policy}"' in self.text():
            for number in range(50):
                self.count(f"a/busy{number}", 8)


def by_policy(text: str, policy: str) -> float | None:
    """Requests of a policy; None where no series says so."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "plinth_gateway_requests_total" and sample.labels["policy"] == policy:
                return sample.value
    return None


def test_a_series_that_ends_in_one_worker_does_not_fall_while_another_has_it() -> None:
    one, two, merge = Shown(), Shown(), MetricsMerge({}, ENDING)
    one.count("a/rare", 5)
    two.count("a/rare", 3)
    merge.take(1, one.text())
    merge.take(2, two.text())
    assert by_policy(merge.text(), "a/rare") == 8
    one.lose("a/rare")
    merge.take(1, one.text())
    assert by_policy(merge.text(), "a/rare") == 8
    two.count("a/rare", 2)
    merge.take(2, two.text())
    assert by_policy(merge.text(), "a/rare") == 10


def test_a_series_that_no_worker_has_any_more_ends_and_begins_from_nothing() -> None:
    one, merge = Shown(), MetricsMerge({}, ENDING)
    one.count("a/rare", 5)
    merge.take(1, one.text())
    one.lose("a/rare")
    merge.take(1, one.text())
    assert by_policy(merge.text(), "a/rare") is None
    again = Shown()
    again.count("a/rare", 1)
    merge.take(2, again.text())
    assert by_policy(merge.text(), "a/rare") == 1


def test_a_series_that_ended_and_began_anew_between_two_scrapes_goes_on_in_the_sum() -> None:
    before, after, merge = Shown(), Shown(), MetricsMerge({}, ENDING)
    before.count("a/p", 7)
    after.count("a/p", 2)
    merge.take(1, before.text())
    merge.take(1, after.text())
    assert by_policy(merge.text(), "a/p") == 9


def test_what_a_dead_worker_counted_by_policy_stays_as_long_as_another_worker_has_the_series() -> None:
    one, two, merge = Shown(), Shown(), MetricsMerge({}, ENDING)
    one.count("a/p", 7)
    two.count("a/p", 2)
    merge.take(1, one.text())
    merge.take(2, two.text())
    merge.bury(1)
    assert by_policy(merge.text(), "a/p") == 9


def test_the_metrics_that_end_are_those_that_are_counted_by_policy() -> None:
    shown = Shown()
    shown.count("a/p", 1)
    names = {
        sample.name
        for family in text_string_to_metric_families(shown.text())
        for sample in family.samples
        if "policy" in sample.labels
    }
    assert names < ENDING
