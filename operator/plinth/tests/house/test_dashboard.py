"""Every metric that the Grafana dashboard shows is one that Plinth exposes, with the labels it is asked for by."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from plinth.controllers.cycle import Pass
from plinth.controllers.ports import Statuses
from plinth.domain.planner import compute_plan
from plinth.gateway.options import Options
from plinth.gateway.server.core import Core
from plinth.runtime.operator_metrics import OperatorMetrics
from plinth.tests.domain.builders import make_snapshot
from plinth.tests.house.documents import ROOT

DASHBOARD = json.loads((ROOT / "charts/plinth/files/dashboard.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
METRIC = re.compile(r"\b(plinth_\w+?)(?:_bucket|_sum|_count)?\b(?=[{\[,) ]|$)")


class NoNews:
    """Nobody is told."""

    def report_now(self) -> None: ...
    def report_soon(self) -> None: ...


async def exposed() -> set[str]:
    """The names of all metrics of gateway and operator, as Prometheus types them."""
    options = Options(host="", port=0, control=Path("s"), secret_file=Path("f"))
    gateway = Core(secret="secret", options=options, news=NoNews())
    operator = OperatorMetrics(lambda: 0.0)
    operator.read_from(leads=lambda: True, status_queue=lambda: 0)
    operator.take_pass(make_pass())
    operator.take_failure(ValueError("a fault"))
    text = (gateway.metrics.text() + operator.page()).decode()
    return set(re.findall(r"^# TYPE (plinth_\w+) ", text, re.MULTILINE))


def make_pass() -> Pass:
    """A pass over nothing: each metric is typed even where it has no sample."""
    snapshot = make_snapshot()
    plan = compute_plan(snapshot, 0.0)
    return Pass(snapshot=snapshot, plan=plan, statuses=Statuses(), put=False, took_seconds=0.0)


def expressions() -> list[str]:
    """All that the dashboard asks Prometheus."""
    variables = [each.get("query", "") for each in DASHBOARD["templating"]["list"]]
    return [*variables, *(target["expr"] for panel in PANELS for target in panel["targets"])]


async def test_every_metric_in_the_dashboard_exists() -> None:
    asked = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert len(asked) >= len(PANELS)
    assert asked - await exposed() == set()


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))
def test_every_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] is not None
    assert all(target["legendFormat"] for target in panel["targets"])


def test_no_two_panels_share_a_place() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS]
    assert len(places) == len(set(places))
