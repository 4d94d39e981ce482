"""What the Grafana dashboard and Prometheus' alerts ask for is what Plinth exposes, with the labels they ask by."""

import json
import re
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from plinth.controllers.cycle import Pass
from plinth.controllers.ports import Statuses
from plinth.domain.planner import compute_plan
from plinth.gateway.telemetry.record import Attempt, RequestRecord
from plinth.runtime.operator_metrics import OperatorMetrics
from plinth.tests.domain.builders import make_snapshot
from plinth.tests.house.documents import ROOT
from plinth.tests.house.gateway_reference import make_core

DASHBOARD = json.loads((ROOT / "charts/plinth/files/dashboard.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "charts/plinth/files/alerts.yaml").read_text(encoding="utf-8"))[
        "groups"
    ]
    for rule in group["rules"]
]
METRIC = re.compile(r"\b(plinth_\w+?)(?:_bucket|_sum|_count)?\b(?=[{\[,) ]|$)")
GROUPED = re.compile(r"by \(([^)]*)\) \((?:rate|increase)?\(?(plinth_\w+?)(?:_bucket)?\b(?:\{(\w+)=)?")
GATEWAY = ROOT / "operator/plinth/gateway"


async def exposition() -> str:
    """All that gateway and operator expose, after one request that did everything."""
    gateway = make_core()
    gateway.afterwards.tell(make_record(cache=""))
    gateway.afterwards.tell(make_record(cache="hit"))
    gateway.metrics.broken.add(("default/chat",))
    operator = OperatorMetrics(lambda: 0.0)
    operator.read_from(leads=lambda: True, status_queue=lambda: 0)
    operator.take_pass(make_pass())
    operator.take_failure(ValueError("a fault"))
    text = gateway.metrics.text()
    await gateway.close()
    return (text + operator.page()).decode()


def make_record(*, cache: str) -> RequestRecord:
    """A request of which everything is known."""
    return RequestRecord(
        request_id="r",
        began_at=0.0,
        duration=1.0,
        method="POST",
        path="/v1/chat/completions",
        status=200,
        error="stream_broken",
        client="127.0.0.1",
        policy="default/standard",
        band="default",
        model="default/chat",
        cache=cache,
        first_token=0.5,
        tpot=0.01,
        prompt_tokens=5,
        output_tokens=5,
        attempts=[Attempt("slot", 0.1)],
    )


def make_pass() -> Pass:
    """A pass over nothing: each metric is typed even where it has no sample."""
    snapshot = make_snapshot()
    plan = compute_plan(snapshot, 0.0)
    return Pass(snapshot=snapshot, plan=plan, statuses=Statuses(), put=False, took_seconds=0.0)


def expressions() -> list[str]:
    """All that dashboard and alerts ask Prometheus."""
    variables = [each.get("query", "") for each in DASHBOARD["templating"]["list"]]
    panels = (target["expr"] for panel in PANELS for target in panel["targets"])
    return [*variables, *panels, *(rule["expr"] for rule in ALERTS)]


async def test_every_metric_that_is_asked_for_exists() -> None:
    asked = {name for expression in expressions() for name in METRIC.findall(expression)}
    exposed = set(re.findall(r"^# TYPE (plinth_\w+) ", await exposition(), re.MULTILINE))
    assert len(asked) >= len(PANELS)
    assert asked - exposed == set()


async def test_metrics_are_asked_for_by_labels_that_they_have() -> None:
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(await exposition()):
        for sample in family.samples:
            labels.setdefault(sample.name.removesuffix("_bucket"), set()).update(sample.labels)
    checked = 0
    for expression in expressions():
        for by, metric, selected in GROUPED.findall(expression):
            if metric in labels:
                checked += 1
                asked = {label.strip() for label in by.split(",")} | ({selected} if selected else set())
                assert asked <= labels[metric], expression
    assert checked > len(PANELS)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))
def test_every_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] is not None
    assert all(target["legendFormat"] for target in panel["targets"])


def test_no_two_panels_share_a_place() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS]
    assert len(places) == len(set(places))


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_every_alert_says_what_is_wrong_and_is_told_of_in_the_documents(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"].endswith((".", "}}."))
    assert rule["annotations"]["description"].endswith(".")
    assert f"| `{rule['alert']}` |" in (ROOT / "docs/operate.md").read_text(encoding="utf-8")


def test_alerts_wait_for_refusals_that_exist() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in GATEWAY.rglob("*.py"))
    named = {
        code
        for rule in ALERTS
        for found in re.findall(r'reason=~?"([\w|]+)"', rule["expr"])
        for code in found.split("|")
    }
    assert "quota_backend_away" in named
    assert {code for code in named if f'"{code}"' not in sources} == set()
