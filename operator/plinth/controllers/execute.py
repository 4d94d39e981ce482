"""Third step of a pass: make it so. Applies the plan, decides nothing, and writes nothing that is already true."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plinth.controllers.ports import Capacity, Gateway
from plinth.desired.serve_config import ServeSettings, same_config, serve_config
from plinth.domain.fleet import FleetPlan, SlotName


@dataclass(frozen=True, kw_only=True)
class Executed:
    """What a pass did."""

    table_version: int
    put: bool
    """Whether Ray was given a new config."""


async def execute(
    plan: FleetPlan,
    *,
    serve: Mapping[str, Any],
    settings: ServeSettings,
    capacity: Capacity,
    gateway: Gateway,
    capacity_known: bool,
) -> Executed:
    """Routes first, so that no request is sent to a replica that is about to go; then Ray. Raises CapacityAway."""
    version = gateway.send(plan.routes)
    if not capacity_known:
        return Executed(table_version=version, put=False)
    config = serve_config(plan, settings, foreign=foreign_applications(serve))
    if same_config(config, serve):
        return Executed(table_version=version, put=False)
    await capacity.apply(config)
    return Executed(table_version=version, put=True)


def foreign_applications(serve: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Applications of others on a Ray we joined: a PUT says everything, so they are said again as they are."""
    return [
        application["deployed_app_config"]
        for name, application in sorted(serve.get("applications", {}).items())
        if SlotName.parse(name) is None
        and application.get("deployed_app_config")
        and application.get("status") != "DELETING"
    ]
