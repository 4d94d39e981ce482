"""Third step of a pass: make it so. Applies the plan, decides nothing, and writes nothing that is already true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plinth.controllers.ports import Ports
from plinth.desired.serve_config import ServeSettings, deployed_configs, same_config, serve_config
from plinth.domain.fleet import FleetPlan, FleetSnapshot, SlotName
from plinth.domain.traffic import LoadReport


async def execute(
    plan: FleetPlan,
    *,
    serve: Mapping[str, Any] | None,
    settings: ServeSettings,
    ports: Ports,
    snapshot: FleetSnapshot,
) -> bool:
    """Routes first, so that no request is sent to a replica that is about to go; then Ray.

    Returns whether Ray was given a new config. Raises CapacityAway.
    """
    if serve is not None or _routes_to_nobody(snapshot.report):
        ports.gateway.send(plan.routes)
    if serve is None or not snapshot.capacity_known:
        return False
    foreign = foreign_applications(serve)
    config = serve_config(plan, settings, foreign=foreign, deployed=deployed_configs(serve))
    if same_config(config, serve):
        return False
    await ports.capacity.apply(config)
    return True


def _routes_to_nobody(report: LoadReport | None) -> bool:
    """Whether the gateway is known to have no replica: one that outlived a restart of ours goes on with its own."""
    return report is not None and not report.replicas


def foreign_applications(serve: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Applications of others on a Ray we joined: a PUT says everything, so they are said again as they are."""
    return [
        application["deployed_app_config"]
        for name, application in sorted(serve.get("applications", {}).items())
        if SlotName.parse(name) is None
        and application.get("deployed_app_config")
        and application.get("status") != "DELETING"
    ]
