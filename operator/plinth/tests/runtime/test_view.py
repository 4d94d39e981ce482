"""What people see of passes."""

from __future__ import annotations

import io

from rich.console import Console

from plinth.api.v1alpha1 import ModelDeploymentStatus, Progress
from plinth.controllers.cycle import Pass
from plinth.controllers.ports import Statuses
from plinth.domain.fleet import FleetPlan, FleetSnapshot, ModelKey
from plinth.domain.traffic import LoadReport, ModelLoad, RouteTable
from plinth.runtime.view import TokenRates, View, describe

KEY = ModelKey("default", "chat")


def make_pass(status: ModelDeploymentStatus) -> Pass:
    plan = FleetPlan(pools=(), models=(), orphans=(), routes=RouteTable(version=0, models=()), wake_at=None)
    snapshot = FleetSnapshot(pools=(), models=(), nodes=(), slots=(), report=None)
    return Pass(
        snapshot=snapshot, plan=plan, statuses=Statuses(models={KEY: status}), put=False, took_seconds=0.01
    )


def make_view() -> tuple[View, io.StringIO]:
    text = io.StringIO()
    return View(Console(file=text, force_terminal=False, width=200)), text


def make_report(tokens: int, *, gateway: str = "g") -> LoadReport:
    load = ModelLoad(in_flight=0, queued=0, peak=0, output_tokens_total=tokens)
    return LoadReport(gateway=gateway, table_version=1, models={str(KEY): load})


def test_off_a_terminal_each_change_is_one_line_and_no_change_is_none() -> None:
    view, text = make_view()
    status = ModelDeploymentStatus(ready_replicas=0, desired_replicas=1, reason="Starting")
    for _ in range(3):
        view.show(make_pass(status))
    view.show(make_pass(status.model_copy(update={"ready_replicas": 1, "reason": "Serving"})))
    assert [line.split()[:3] for line in text.getvalue().splitlines()] == [
        ["default/chat", "0/1", "Starting"],
        ["default/chat", "1/1", "Serving"],
    ]


def test_an_error_of_a_file_is_said_once_and_again_when_it_comes_back() -> None:
    view, text = make_view()
    for errors in (("a.yaml:3: bad",), ("a.yaml:3: bad",), (), ("a.yaml:3: bad",)):
        view.show_errors(errors)
    assert text.getvalue().count("a.yaml:3: bad") == 2


def test_a_start_is_described_by_its_phase_share_and_time_left() -> None:
    step = Progress(
        replica="default.chat.cafe.0",
        phase="Downloading",
        bytes_done=30,
        bytes_total=100,
        percent=30,
        eta_seconds=12,
    )
    assert describe(ModelDeploymentStatus(progress=[step])) == "Downloading 30%, 12 s left"


def test_token_rates_are_differences_over_time_and_start_anew_with_the_gateway() -> None:
    times = iter([0.0, 2.0, 4.0])
    rates = TokenRates(clock=lambda: next(times))
    rates.take(make_report(100))
    rates.take(make_report(300))
    assert rates.rates == {"default/chat": 100}
    rates.take(make_report(5, gateway="another"))
    assert rates.rates == {"default/chat": 100}
