"""What becomes of the replicas of models that no longer exist: their requests end in peace, then they go."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from plinth.api.v1alpha1 import Rollout
from plinth.domain.draining import Departure, leave, timeout_at
from plinth.domain.fleet import FleetSnapshot, Slot, SlotAction, SlotName, SlotPhase, SlotPlan
from plinth.domain.health import breakage
from plinth.domain.routes import leaving_route
from plinth.domain.traffic import ModelRoute

DRAIN_TIMEOUT_SECONDS: int = Rollout().drain_timeout_seconds
"""A deleted model left no timeout behind, so the default holds."""


@dataclass(frozen=True, kw_only=True)
class DesertedDecision:
    """Who may go, who drains first, and how the gateway treats them meanwhile."""

    orphans: tuple[SlotName, ...]
    leaving: tuple[SlotPlan, ...]
    routes: tuple[ModelRoute, ...]
    wakes: tuple[float, ...]


def plan_deserted(slots: Iterable[Slot], snapshot: FleetSnapshot, now: float) -> DesertedDecision:
    """The fate of slots without a model. While Ray is away all of them stay."""
    departure = Departure(report=snapshot.report, drain_timeout_seconds=DRAIN_TIMEOUT_SECONDS, now=now)
    present = {slot.name: slot for slot in slots if slot.phase is not SlotPhase.STOPPING}
    node_ids = {node.node_id for node in snapshot.nodes}
    plans = [_depart(present[name], snapshot, departure, node_ids) for name in sorted(present)]
    leaving = tuple(plan for plan in plans if plan.action is SlotAction.DRAIN)
    dues = [timeout_at(present[plan.name], departure) for plan in leaving]
    routes = [
        leaving_route(key, present.values(), [plan for plan in leaving if plan.name.model == key])
        for key in sorted({plan.name.model for plan in leaving})
    ]
    return DesertedDecision(
        orphans=tuple(plan.name for plan in plans if plan.action is SlotAction.REMOVE),
        leaving=leaving,
        routes=tuple(routes),
        wakes=tuple(due for due in dues if due is not None),
    )


def _depart(slot: Slot, snapshot: FleetSnapshot, departure: Departure, node_ids: Collection[str]) -> SlotPlan:
    plan = leave(slot, f"{slot.name.model} was deleted", departure)
    if any(ray.name == slot.ray and not ray.answers for ray in snapshot.rays):
        return replace(plan, action=SlotAction.DRAIN)
    broken = breakage(slot, report=snapshot.report, node_ids=node_ids)
    return replace(plan, action=SlotAction.REMOVE, reason=broken) if broken else plan
