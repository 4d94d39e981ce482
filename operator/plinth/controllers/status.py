"""Last step of a pass: what the plan means for each resource's status."""

from __future__ import annotations

from plinth.controllers.gather import key_of
from plinth.controllers.ports import Resources, Statuses
from plinth.desired.statuses import look, model_status, pool_status
from plinth.domain.fleet import FleetPlan, FleetSnapshot


def make_statuses(snapshot: FleetSnapshot, plan: FleetPlan, resources: Resources, now: float) -> Statuses:
    """Every resource's status after this pass; the store writes those that changed.

    Of a model whose replicas nobody can know yet, the last status stands.
    """
    previous = {key_of(each.resource): each.resource for each in resources.models}
    pools = {pool.metadata.name: pool for pool in resources.pools}
    seen = look(snapshot, plan)
    return Statuses(
        pools={
            each.name: pool_status(each, pools[each.name], now) for each in plan.pools if each.name in pools
        },
        models={
            each.key: model_status(each, previous[each.key], seen[each.key], now)
            for each in plan.models
            if each.key in previous and str(each.key) not in plan.unknown_routes
        },
    )
