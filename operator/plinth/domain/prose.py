"""A plan as people read it: what is wanted, why, what was not chosen, and what happens to each replica now."""

from __future__ import annotations

from plinth.domain.fleet import FleetPlan, ModelPlan, PoolPlan, SlotAction, SlotPlan
from plinth.domain.quantities import plural


def describe(plan: FleetPlan) -> str:
    """The whole plan, a paragraph for each model; lines end without spaces, the text without a newline."""
    pools = {pool.name: pool for pool in plan.pools}
    paragraphs = [_describe_model(model, pools.get(model.pool)) for model in plan.models]
    gone = [f"  {_describe_slot(slot)}" for slot in plan.leaving]
    gone += [f"  {'remove':<7} {name}: its model was deleted" for name in plan.orphans]
    if gone:
        paragraphs.append("\n".join(["of deleted models", *gone]))
    return "\n\n".join(paragraphs) or "nothing is asked for, nothing runs"


def headline(model: ModelPlan, pool: PoolPlan | None) -> str:
    """`team/chat on pool h200 (2 nodes, H200): 1 replica x TP2 = 2 accelerators`."""
    where = (
        f" on pool {pool.name} ({plural(pool.nodes, 'node')}, {pool.accelerator or 'empty'})" if pool else ""
    )
    if model.spec is None:
        return f"{model.key}{where}: no new replica can be made"
    shape = f"{plural(model.desired_replicas, 'replica')} x {model.spec.shape}"
    if pool is None or pool.accelerators == 0:
        return f"{model.key}{where}: {shape}, revision {model.revision}"
    taken = plural(model.desired_replicas * model.spec.shape.accelerators, "accelerator")
    return f"{model.key}{where}: {shape} = {taken}, revision {model.revision}"


def _describe_model(model: ModelPlan, pool: PoolPlan | None) -> str:
    lines = [headline(model, pool)]
    lines += [f"  {sentence}" for sentence in model.reasons]
    lines += [f"  {_describe_slot(slot)}" for slot in model.slots]
    return "\n".join(lines)


def _describe_slot(slot: SlotPlan) -> str:
    where = f" on {slot.node_id}" if slot.action is SlotAction.CREATE else ""
    return f"{slot.action.lower():<7} {slot.name}{where}: {slot.reason}"
