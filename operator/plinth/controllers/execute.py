"""Third step of a pass: make it so. Applies the plan, decides nothing, and writes nothing that is already true."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any

from plinth.cluster.capacity import CapacityAway
from plinth.controllers.ports import Ports
from plinth.controllers.rays import RayView
from plinth.desired.serve_config import asked_of_ray, deployed_configs, same_config, serve_config
from plinth.domain.fleet import FleetPlan, FleetSnapshot, SlotName
from plinth.domain.traffic import LoadReport

log = logging.getLogger("plinth.cycle")


async def execute(
    plan: FleetPlan, *, rays: Mapping[str, RayView], ports: Ports, snapshot: FleetSnapshot
) -> bool:
    """Routes first, so that no request is sent to a replica that is about to go; then workers and Ray.

    Returns whether anything was asked of Ray. One Ray that cannot be told leaves the others as quick as ever.
    """
    _send_routes(plan, rays, ports, snapshot)
    done = await asyncio.gather(
        _told(ports.capacity.resize(plan.pools, snapshot.pools)),
        *(_told(_apply(plan, view, ports)) for view in rays.values() if view.answers),
    )
    return any(done)


def _send_routes(plan: FleetPlan, rays: Mapping[str, RayView], ports: Ports, snapshot: FleetSnapshot) -> None:
    """Before any Ray has answered nobody knows the replicas; a gateway that knows none either may be told the rest."""
    if _routes_to_nobody(snapshot.report):
        ports.gateway.send(plan.routes)
    elif not rays or any(view.seen for view in rays.values()):
        ports.gateway.send(plan.routes, unknown=plan.unknown_routes)


async def _told(step: Coroutine[Any, Any, bool]) -> bool:
    try:
        return await step
    except CapacityAway as error:
        log.warning("the plan could not be applied, the next pass tries again: %s", error)
        return False


async def _apply(plan: FleetPlan, view: RayView, ports: Ports) -> bool:
    """Tell one Ray what should run on it, if that differs from what it was told."""
    serve, ray = view.serve or {}, view.observation
    # A slot never changes, so names tell whether the wish is the one that was compared with this answer before.
    wish = (serve, asked_of_ray(plan, ray.name), ray.settings)
    if view.settled and view.settled[0] is serve and view.settled[1:] == wish[1:]:
        return False
    config = serve_config(
        plan,
        ray.settings,
        ray=ray.name,
        foreign=foreign_applications(serve),
        deployed=deployed_configs(serve),
    )
    if same_config(config, serve):
        view.settled = wish
        return False
    await ports.capacity.apply(ray.name, config)
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
