"""Several workers' metrics as one exposition, read back with Prometheus' own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from plinth.gateway.server.merged_metrics import MetricsMerge
from plinth.gateway.server.metrics import Metrics


def make_text(
    *, requests: int = 0, seconds: tuple[float, ...] = (), model: str = "a", replicas: int = 2
) -> str:
    metrics = Metrics()
    metrics.read_gauges_from(
        lambda: [
            ("replicas", "Seen.", ["model"], [([model], replicas)]),
            ("in_flight_requests", "Now.", ["model"], [([model], requests)]),
        ]
    )
    if requests:
        metrics.requests.add((model, "/v1/chat/completions", "200"), requests)
    for item in seconds:
        metrics.ttft.observe(model, item)
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
    merge.take(1, make_text(requests=3, seconds=(0.02, 40.0)))
    merge.take(2, make_text(requests=4, seconds=(0.02,)))
    found = read(merge.text())
    assert found["plinth_gateway_requests_total", "a", ""] == 7
    assert found[f"{TTFT}_bucket", "a", "0.025"] == 2
    assert found[f"{TTFT}_bucket", "a", "+Inf"] == found[f"{TTFT}_count", "a", ""] == 3
    assert found["plinth_gateway_in_flight_requests", "a", ""] == 7
    assert found["plinth_gateway_replicas", "a", ""] == 2


def test_what_only_one_worker_has_seen_stands_with_its_family() -> None:
    merge = MetricsMerge({})
    merge.take(1, make_text(requests=1, seconds=(1.0,)))
    merge.take(2, make_text(requests=2, seconds=(1.0,), model='b "quoted" and spaced'))
    text = merge.text()
    assert text.count(f"# TYPE {TTFT} histogram") == 1
    assert read(text)["plinth_gateway_requests_total", 'b "quoted" and spaced', ""] == 2


def test_a_dead_workers_counts_stay_and_its_gauges_go() -> None:
    merge = MetricsMerge({})
    merge.take(1, make_text(requests=3, seconds=(0.5,)))
    merge.take(2, make_text(requests=4))
    before = read(merge.text())
    merge.bury(1)
    after = read(merge.text())
    assert after["plinth_gateway_requests_total", "a", ""] == 7
    assert after[f"{TTFT}_sum", "a", ""] == before[f"{TTFT}_sum", "a", ""] == 0.5
    assert after["plinth_gateway_in_flight_requests", "a", ""] == 4
    merge.take(3, make_text(requests=5))
    merge.bury(2)
    assert read(merge.text())["plinth_gateway_requests_total", "a", ""] == 12


def test_the_parents_own_metrics_stand_beside_the_workers() -> None:
    merge = MetricsMerge({})
    merge.take(1, make_text(requests=3))
    own = "# HELP plinth_gateway_workers W.\n# TYPE plinth_gateway_workers gauge\nplinth_gateway_workers 2\n"
    assert read(merge.text(own))["plinth_gateway_workers", "", ""] == 2


def test_one_workers_metrics_come_out_as_they_went_in() -> None:
    text = make_text(requests=3, seconds=(0.5, 700.0))
    merge = MetricsMerge({})
    merge.take(1, text)
    assert merge.text() == text
