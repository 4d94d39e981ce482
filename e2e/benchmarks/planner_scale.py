"""What a whole plan costs as a fleet grows: sizing, scaling, places, rollouts, conditions and routes of all models.

    python e2e/benchmarks/planner_scale.py

One process, plain Python. Seconds are CPU time, so they hold on a busy machine too. A full plan is the first of a new
process: nothing is remembered and nothing runs. An incremental one has a fleet that runs and a pass before it; its
snapshot is put together anew, and one thing in it has changed. Every repeat of a size has a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from statistics import median

from planner_fleet import carried_out, make_fleet, with_load
from records import Record, installed_versions, this_command, write_records

from plinth.api.v1alpha1 import ModelDeployment
from plinth.domain.allotment import PlaceMemory
from plinth.domain.at_rest import Rest
from plinth.domain.fleet import FleetPlan, FleetSnapshot, ModelKey, SlotAction
from plinth.domain.planner import compute_plan
from plinth.domain.targets import TargetMemory
from plinth.domain.traffic import ReplicaLoad, ReplicaState
from plinth.runtime.operator import GC_ALLOCATIONS

SIZES = (100, 300, 1_000, 3_000, 10_000, 30_000, 50_000)
STATED = 10_000
"""The size that the goals are stated for."""
FULL_SECONDS, INCREMENTAL_MILLISECONDS = 1.0, 50.0
REPEATS = 3
"""Of sizes up to the stated one; larger ones are measured once."""
PASSES = 3
"""So often each change is planned in a repeat."""
START = 1_000_000.0
"""Unix seconds of the first plan."""


@dataclass
class Planner:
    """The planner as the operator has it: with what it keeps from pass to pass."""

    targets: TargetMemory = field(default_factory=TargetMemory)
    places: PlaceMemory = field(default_factory=PlaceMemory)
    rest: Rest = field(default_factory=Rest)
    now: float = START

    def plan(self, snapshot: FleetSnapshot) -> tuple[float, FleetPlan]:
        """The plan of the next second, and the CPU seconds that it took."""
        self.now += 1.0
        started = time.process_time()
        plan = compute_plan(snapshot, self.now, targets=self.targets, places=self.places, rest=self.rest)
        return time.process_time() - started, plan


@dataclass(frozen=True)
class Taken:
    """What one process measured, in CPU seconds."""

    full: float
    restarted: float
    """With everything running, and nothing remembered but how models are sized."""
    changes: Mapping[str, float]
    """The median of each."""
    models: int
    replicas: int
    used: int
    """Accelerators."""


def nothing(snapshot: FleetSnapshot) -> FleetSnapshot:
    return snapshot


def an_edit(snapshot: FleetSnapshot) -> FleetSnapshot:
    """Another concurrency: a new revision of one model."""
    return _edited(snapshot, {"objectives": {"concurrency": 7, "contextTokens": 2048}})


def one_replica_more(snapshot: FleetSnapshot) -> FleetSnapshot:
    return _edited(snapshot, {"scaling": {"minReplicas": 7, "maxReplicas": 9}})


def a_model_deleted(snapshot: FleetSnapshot) -> FleetSnapshot:
    return replace(snapshot, models=snapshot.models[1:])


def a_model_more(snapshot: FleetSnapshot) -> FleetSnapshot:
    like = snapshot.models[len(snapshot.models) // 2]
    resource = like.resource.model_copy(
        update={"metadata": like.resource.metadata.model_copy(update={"name": "one-more"})}
    )
    model = replace(like, key=ModelKey(like.key.namespace, "one-more"), resource=resource, first_seen=START)
    return replace(snapshot, models=(*snapshot.models, model))


def a_replica_lost(snapshot: FleetSnapshot) -> FleetSnapshot:
    assert snapshot.report is not None
    lost = str(snapshot.slots[0].name)
    dead = ReplicaLoad(in_flight=0, state=ReplicaState.DEAD, detail="connection reset")
    report = replace(snapshot.report, replicas={**snapshot.report.replicas, lost: dead})
    return replace(snapshot, report=report)


CHANGES: Mapping[str, Callable[[FleetSnapshot], FleetSnapshot]] = {
    change.__name__: change
    for change in (nothing, an_edit, one_replica_more, a_model_deleted, a_model_more, a_replica_lost)
}


def _edited(snapshot: FleetSnapshot, spec: Mapping[str, object]) -> FleetSnapshot:
    """With the spec of one model changed; it is read anew, as after an edit."""
    number = len(snapshot.models) // 2
    model = snapshot.models[number]
    document = model.resource.model_dump(mode="json", by_alias=True, exclude_none=True)
    for name, fields in spec.items():
        document["spec"][name] = {**document["spec"].get(name, {}), **fields}  # type: ignore[dict-item]
    edited = replace(model, resource=ModelDeployment.model_validate(document))
    return replace(snapshot, models=(*snapshot.models[:number], edited, *snapshot.models[number + 1 :]))


def measure(accelerators: int) -> Taken:
    """One size, in a process in which nothing was planned before."""
    gc.set_threshold(GC_ALLOCATIONS, 20, 20)
    planner, fleet = Planner(), make_fleet(accelerators)
    gc.collect()
    full, plan = planner.plan(fleet)
    running = carried_out(fleet, plan, planner.now)
    restarted, _ = Planner(targets=planner.targets).plan(running)
    changes = {name: median(_again(planner, running, change)) for name, change in CHANGES.items()}
    return Taken(
        full=full,
        restarted=restarted,
        changes=changes,
        models=len(fleet.models),
        replicas=len(running.slots),
        used=sum(pool.accelerators_used for pool in plan.pools),
    )


def _again(
    planner: Planner, running: FleetSnapshot, change: Callable[[FleetSnapshot], FleetSnapshot]
) -> Iterator[float]:
    """The pass in which the change is seen, each time after one in which nothing had changed."""
    for _ in range(PASSES):
        _, plan = planner.plan(with_load(running, planner.now))
        assert all(slot.action is SlotAction.KEEP for model in plan.models for slot in model.slots)
        planner.plan(with_load(running, planner.now))
        after = change(with_load(running, planner.now))
        gc.collect()
        yield planner.plan(after)[0]


def make_records(accelerators: int) -> Iterator[Record]:
    """Two figures of one size: a full plan, and the dearest of the changes."""
    processes = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=processes, max_tasks_per_child=1) as pool:
        taken = list(pool.map(measure, [accelerators] * (REPEATS if accelerators <= STATED else 1)))
    stated = accelerators == STATED
    first = taken[0]
    changes = {name: _milliseconds([each.changes[name] for each in taken]) for name in CHANGES}
    yield Record(
        metric=f"planner_full_seconds_{accelerators}_gpus",
        value=round(median(each.full for each in taken), 4),
        unit="s",
        goal=f"<={FULL_SECONDS}" if stated else "",
        peers={
            "repeats": [round(each.full, 4) for each in taken],
            "restarted_seconds": round(median(each.restarted for each in taken), 4),
            "models": first.models,
            "replicas": first.replicas,
            "accelerators_used": first.used,
        },
        versions=installed_versions(),
        command=this_command(),
    )
    yield Record(
        metric="planner_incremental_ms" if stated else f"planner_incremental_ms_{accelerators}_gpus",
        value=max(changes.values()),
        unit="ms",
        goal=f"<={INCREMENTAL_MILLISECONDS}" if stated else "",
        peers={"median_of_each_change": changes},
        versions=installed_versions(),
        command=this_command(),
    )


def _milliseconds(seconds: list[float]) -> float:
    return round(median(seconds) * 1000, 2)


def main() -> None:
    """Measure all sizes, or those asked for; the records are kept where all were measured."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--accelerators", type=int, nargs="*", help="sizes of fleets")
    asked = parser.parse_args().accelerators
    records = [record for size in asked or SIZES for record in make_records(size)]
    if asked:
        print(*(record.to_line() for record in records), sep="\n")
    else:
        write_records("planner_scale", records)


if __name__ == "__main__":
    main()
