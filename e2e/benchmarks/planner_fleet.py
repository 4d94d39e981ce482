"""A fleet for measuring whole plans: pools of four kinds, public models with various objectives, and load on them.

All of it is drawn from a seed. Nodes have 8 accelerators, and there is a model for every five. Models share the
architectures that people serve, so most have others in the fleet like them, though rarely with the same objectives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random

from plinth.api.v1alpha1 import GPUPool, ModelDeployment
from plinth.domain.accelerators.catalogue import find_accelerator
from plinth.domain.fleet import (
    Artifact,
    FleetPlan,
    FleetSnapshot,
    LoadWindow,
    Model,
    ModelFormat,
    ModelKey,
    Node,
    Ray,
)
from plinth.domain.quantities import GIB
from plinth.domain.settling import carry_out
from plinth.domain.traffic import LoadReport, ModelLoad, ReplicaLoad, ReplicaState
from plinth.tests.domain.models.public_models import PUBLIC_MODELS

PER_NODE = 8
PER_MODEL = 5
"""Accelerators of the fleet for one model of it."""
RACK_NODES = 16


@dataclass(frozen=True)
class Kind:
    """A pool's accelerator, how many in a hundred nodes have it, and what an hour of one costs."""

    pool: str
    name: str
    percent: int
    hour: str


KINDS = (
    Kind("a100", "A100-80GB", 25, "1.60"),
    Kind("h100", "H100-80GB", 30, "2.95"),
    Kind("h200", "H200", 30, "3.90"),
    Kind("l40s", "L40S", 15, "0.90"),
)
SERVED = (
    *("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen3-0.6B") * 2,
    *("Qwen/Qwen2.5-7B", "Qwen/Qwen3-8B") * 5,
    *("Qwen/Qwen2.5-14B", "Qwen/Qwen3-30B-A3B") * 3,
    *("Qwen/Qwen2.5-32B", "Qwen/Qwen3-32B") * 2,
    "Qwen/Qwen2.5-72B",
)
"""As often as they are served: many small ones, few large ones."""
CONTEXTS = (4096, 8192, 16384)
CONCURRENCIES = (4, 8, 16, 32)
GOALS: tuple[Mapping[str, int], ...] = ({}, {"tpot_milliseconds": 40}, {"ttft_milliseconds": 2000})
PRIORITIES = (0, 50, 50, 50, 100)
REPLICAS = (1, 1, 2, 2, 3, 4, 6)
NAMED_PERCENT = 90
"""Of the models, those that say which pool; the others leave it to the planner."""


def make_fleet(accelerators: int) -> FleetSnapshot:
    """Pools, nodes and models; nothing runs yet."""
    chance = Random(accelerators)  # noqa: S311 - no secret
    artifacts = {name: make_artifact(name) for name in sorted(set(SERVED))}
    return FleetSnapshot(
        pools=tuple(make_pool(kind) for kind in KINDS),
        models=tuple(make_model(chance, number, artifacts) for number in range(accelerators // PER_MODEL)),
        nodes=tuple(make_nodes(accelerators // PER_NODE)),
        slots=(),
        report=None,
        rays=tuple(Ray(name=f"plinth/{kind.pool}", pool=kind.pool) for kind in KINDS),
    )


def make_pool(kind: Kind) -> GPUPool:
    spec = {
        "accelerator": kind.name,
        "cost_per_accelerator_hour": kind.hour,
        "workers": {"min": 10_000, "max": 10_000},
    }
    return GPUPool.model_validate({"metadata": {"name": kind.pool}, "spec": spec})


def make_nodes(count: int) -> Iterator[Node]:
    first = 0
    for kind in KINDS:
        known = find_accelerator(kind.name)
        assert known is not None, kind
        last = count if kind is KINDS[-1] else first + count * kind.percent // 100
        for number in range(first, last):
            yield Node(
                node_id=f"node-{number:05}",
                address=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
                ray=f"plinth/{kind.pool}",
                pool=kind.pool,
                group=f"{kind.pool}-8",
                worker=f"{kind.pool}-worker-{number:05}",
                labels={"plinth.dev/rack": f"rack-{number // RACK_NODES:04}"},
                cpus=96,
                memory_bytes=1024 * GIB,
                accelerator=kind.name,
                accelerators=PER_NODE,
                accelerator_memory_bytes=known.memory_bytes,
            )
        first = last


def make_artifact(name: str) -> Artifact:
    public = PUBLIC_MODELS[name]
    return Artifact(format=ModelFormat.SAFETENSORS, config=public.config, weights_bytes=public.parameters * 2)


def make_model(chance: Random, number: int, artifacts: Mapping[str, Artifact]) -> Model:
    name, public = f"model-{number:05}", chance.choice(SERVED)
    pool = chance.choices(KINDS, weights=[kind.percent for kind in KINDS])[0].pool
    replicas = chance.choice(REPLICAS)
    spec = {
        "model": {"source": f"hf://{public}"},
        "pool": pool if chance.randrange(100) < NAMED_PERCENT else None,
        "priority": chance.choice(PRIORITIES),
        "objectives": {
            "context_tokens": chance.choice(CONTEXTS),
            "concurrency": chance.choice(CONCURRENCIES),
            **chance.choice(GOALS),
        },
        "scaling": {"min_replicas": replicas, "max_replicas": replicas + 2},
    }
    return Model(
        key=ModelKey(f"team-{number % 40:02}", name),
        resource=ModelDeployment.model_validate(
            {"metadata": {"name": name, "namespace": f"team-{number % 40:02}"}, "spec": spec}
        ),
        first_seen=float(number),
        artifact=artifacts[public],
        answered_revision="",
        window=LoadWindow(),
        failure=None,
    )


def carried_out(snapshot: FleetSnapshot, plan: FleetPlan, now: float) -> FleetSnapshot:
    """All that the plan creates serves, and the gateways report some load."""
    settled = carry_out(plan, snapshot, now)
    slots = tuple(
        replace(slot, host="10.0.0.1", port=20_000 + number % 40_000)
        for number, slot in enumerate(settled.slots)
    )
    revisions = {slot.name.model: slot.name.revision for slot in slots}
    models = tuple(
        replace(model, answered_revision=revisions.get(model.key, "")) for model in snapshot.models
    )
    return with_load(replace(snapshot, models=models, slots=slots), now)


def with_load(snapshot: FleetSnapshot, now: float) -> FleetSnapshot:
    """The next pass's snapshot: a new report with the same load, and models put together anew, as gathering does."""
    on: dict[str, int] = {}
    for slot in snapshot.slots:
        on[str(slot.name.model)] = on.get(str(slot.name.model), 0) + 1
    report = LoadReport(
        gateway="gateway",
        table_version=1,
        models={
            model: ModelLoad(in_flight=2 * count, queued=0, peak=3 * count) for model, count in on.items()
        },
        replicas={
            str(slot.name): ReplicaLoad(in_flight=2, state=ReplicaState.READY) for slot in snapshot.slots
        },
    )
    models = tuple(
        replace(model, window=_window(on.get(str(model.key), 0), now)) for model in snapshot.models
    )
    held = {slot.node_id for slot in snapshot.slots}
    nodes = tuple(
        node if node.idle_since or node.node_id in held else replace(node, idle_since=now)
        for node in snapshot.nodes
    )
    return replace(snapshot, models=models, nodes=nodes, report=report)


def _window(replicas: int, now: float) -> LoadWindow:
    """The last minute's peaks."""
    samples = tuple((now - age, 3 * replicas) for age in range(60, 0, -5))
    return LoadWindow(samples=samples, watched_since=now - 3600)
