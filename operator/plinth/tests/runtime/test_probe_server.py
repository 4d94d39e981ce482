"""The probes over a real socket, and the page of metrics."""

from __future__ import annotations

import aiohttp

from plinth.controllers.cycle import Pass
from plinth.controllers.ports import Statuses
from plinth.domain.fleet import FleetSnapshot, ModelKey, NodeState
from plinth.domain.planner import compute_plan
from plinth.runtime.operator_metrics import OperatorMetrics
from plinth.runtime.probe_server import ProbeServer
from plinth.tests.cluster.kube.stored_objects import make_status
from plinth.tests.domain.builders import make_node


async def test_a_probe_answers_200_while_all_is_well_and_503_with_what_is_wrong() -> None:
    troubles = ["", "kopf has ended"]
    server = ProbeServer(
        health=lambda: troubles[0], readiness=lambda: troubles[1], metrics=lambda: b"plinth_leader 1.0\n"
    )
    await server.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
            async with session.get("/healthz") as answer:
                assert (answer.status, await answer.text()) == (200, "ok")
            async with session.get("/readyz") as answer:
                assert (answer.status, await answer.text()) == (503, "kopf has ended")
            async with session.get("/metrics") as answer:
                assert answer.content_type == "text/plain"
                assert await answer.text() == "plinth_leader 1.0\n"
    finally:
        await server.close()


def make_pass(now: float) -> Pass:
    nodes = (make_node("there"), make_node("could-be"))
    snapshot = FleetSnapshot(
        pools=(),
        models=(),
        nodes=(nodes[0], type(nodes[1])(**{**vars(nodes[1]), "state": NodeState.POTENTIAL})),
        slots=(),
        report=None,
    )
    statuses = Statuses(
        models={
            ModelKey("a", str(number)): make_status().model_copy(update={"reason": "Serving"})
            for number in (1, 2)
        }
    )
    return Pass(
        snapshot=snapshot, plan=compute_plan(snapshot, now), statuses=statuses, put=False, took_seconds=0.2
    )


def test_metrics_show_the_last_pass_and_count_what_happens() -> None:
    now = 100.0
    metrics = OperatorMetrics(lambda: now)
    metrics.read_from(leads=lambda: True, status_queue=lambda: 3)
    metrics.take_pass(make_pass(now))
    metrics.take_failure(ValueError("broken"))
    metrics.take_answer("PATCH", 200)
    metrics.take_answer("PATCH", 0)
    now = 107.0
    page = metrics.page().decode()
    for line in (
        "plinth_leader 1.0",
        "plinth_status_queue 3.0",
        "plinth_plan_age_seconds 7.0",
        'plinth_models{reason="Serving"} 2.0',
        'plinth_workers_present{pool=""} 1.0',
        'plinth_cycle_seconds_bucket{le="0.25"} 1.0',
        'plinth_cycle_failures_total{reason="ValueError"} 1.0',
        'plinth_kubernetes_requests_total{code="0",verb="PATCH"} 1.0',
    ):
        assert line in page.splitlines()


def test_a_replica_that_leads_no_longer_shows_no_fleet() -> None:
    metrics = OperatorMetrics(lambda: 100.0)
    metrics.take_pass(make_pass(100.0))
    metrics.forget_fleet()
    page = metrics.page().decode()
    assert "plinth_leader 0.0" in page.splitlines()
    assert "plinth_models{" not in page
    assert "plinth_plan_age_seconds" not in page
