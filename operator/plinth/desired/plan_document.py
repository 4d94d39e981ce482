"""A plan as the JSON of `plinth plan`: what each model would get and why, and what would stay pending.

Bytes are of one accelerator (on a CPU node, of the replica); all numbers are integers, money is a decimal string.
What is not computed is null.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from plinth.api.v1alpha1 import ConditionType, Reason
from plinth.desired.replica_places import name_node
from plinth.domain.figures import MemoryFigures, SpeedFigures
from plinth.domain.fleet import (
    EngineSpec,
    FleetPlan,
    ModelKey,
    ModelPlan,
    Node,
    PoolPlan,
    SlotAction,
    SlotPlan,
    Verdict,
)
from plinth.domain.quantities import multiply_money
from plinth.domain.sizing.shape import Shape

NEEDED = (ConditionType.ACCEPTED, ConditionType.PLANNED, ConditionType.PLACED)
"""What must be True of a model for the plan to give it all that is asked."""
STAYING = {SlotAction.CREATE, SlotAction.KEEP, SlotAction.AWAIT}


def make_plan_document(
    plan: FleetPlan, prices: Mapping[str, str], nodes: Iterable[Node] = ()
) -> dict[str, Any]:
    """`models` in the order of their names, what is `pending`, and the `pools`.

    Args:
        plan: as the production planner made it.
        prices: money for one accelerator (on a CPU pool: one node) an hour, by pool.
        nodes: those that people know by other names than their ids.
    """
    pools, by_id = {pool.name: pool for pool in plan.pools}, {node.node_id: node for node in nodes}
    return {
        "models": [
            _model(each, each.spec, pools[each.pool], prices.get(each.pool, "0"), by_id)
            for each in plan.models
            if each.spec is not None and each.pool in pools
        ],
        "pending": [
            {**name_model(each.key), "reason": verdict.reason, "message": verdict.message}
            for each in plan.models
            if (verdict := find_obstacle(each)) is not None
        ],
        "pools": [_pool(each) for each in plan.pools],
    }


def find_obstacle(model: ModelPlan) -> Verdict | None:
    """The first condition that keeps the model from what it asks for, or None.

    A replica that computes on other accelerators than it was given has its place all the same.
    """
    return next(
        (
            each
            for each in model.verdicts
            if each.type in NEEDED and each.status is not True and each.reason != Reason.OTHER_ACCELERATORS
        ),
        None,
    )


def name_model(key: ModelKey) -> dict[str, str]:
    """What every entry about a model begins with."""
    return {"name": key.name, "namespace": key.namespace}


def _model(
    model: ModelPlan, spec: EngineSpec, pool: PoolPlan, price: str, nodes: Mapping[str, Node]
) -> dict[str, Any]:
    prediction = model.prediction
    accelerators = spec.shape.accelerators * model.desired_replicas if pool.accelerators else 0
    return {
        **name_model(model.key),
        "pool": model.pool,
        "engine": spec.engine.value,
        "shape": _shape(spec.shape),
        "replicas": model.desired_replicas,
        "gpus": accelerators,
        "memory": _memory(prediction.memory) if prediction else None,
        "predicted": _speed(prediction.speed) if prediction and prediction.speed else None,
        "costPerHour": multiply_money(price, accelerators or len({slot.node_id for slot in model.slots})),
        "reasons": list(model.reasons),
        "rejected": [{"shape": str(each.shape), "reason": each.reason} for each in model.rejected],
        "places": [_places(slot, nodes) for slot in model.slots if slot.action in STAYING],
    }


def _places(slot: SlotPlan, nodes: Mapping[str, Node]) -> dict[str, Any]:
    """Where a replica runs or would, node by node; accelerators by index, none on a CPU node."""
    parts = [
        {"node": name_node(each.node_id, nodes), "accelerators": list(each.accelerators)}
        for each in slot.place
    ]
    return {"replica": str(slot.name), "nodes": parts}


def _pool(pool: PoolPlan) -> dict[str, str | int]:
    return {
        "name": pool.name,
        "accelerator": pool.accelerator,
        "nodes": pool.nodes,
        "gpus": pool.accelerators,
        "gpusUsed": pool.accelerators_used,
        "memoryBytes": pool.memory_bytes,
        "memoryUsedBytes": pool.memory_used_bytes,
    }


def _shape(shape: Shape) -> dict[str, int]:
    return {
        "tensorParallel": shape.tensor,
        "pipelineParallel": shape.pipeline,
        "expertParallel": shape.expert,
        "dataParallel": shape.data,
    }


def _memory(memory: MemoryFigures) -> dict[str, int | None]:
    return {
        "weightsBytesPerGpu": memory.weights_bytes,
        "adapterBytesPerGpu": memory.adapter_bytes,
        "kvBytesPerGpu": memory.kv_bytes,
        "kvTokens": memory.kv_tokens,
        "overheadBytesPerGpu": memory.overhead_bytes,
    }


def _speed(speed: SpeedFigures) -> dict[str, int | str]:
    return {
        "ttftP50Milliseconds": speed.ttft_p50_milliseconds,
        "ttftP99Milliseconds": speed.ttft_p99_milliseconds,
        "tpotMicroseconds": speed.tpot_microseconds,
        "tokensPerSecond": speed.tokens_per_second,
        "costPerMillionTokens": speed.cost_per_million_tokens,
    }
