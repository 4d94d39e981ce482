"""What placing replicas costs as a fleet grows, and how far from the optimum it stays.

    python e2e/benchmarks/placing_growth.py

One process, plain Python. Seconds are CPU time, so they hold on a busy machine too; the wall's are beside them. A full
plan starts from nothing; an incremental one has a fleet that runs, in which little changed. Models come one for five
accelerators. The comparison needs the exact solver; without it, its record says so.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random

from records import Record, installed_versions, this_command, write_records

from plinth.domain.placing.demands import Demand, Gang, Near, Option
from plinth.domain.placing.hosts import Hold, Host
from plinth.domain.placing.plan import PlacementPlan, plan_places
from plinth.domain.placing.room import Room
from plinth.tests.domain.placing.comparison import compare
from plinth.tests.domain.placing.optima import PYTHON, find_optima

SIZES = (100, 300, 1_000, 3_000, 10_000, 30_000, 50_000)
STATED = 10_000
"""The size that the goals are stated for."""
FULL_SECONDS, INCREMENTAL_MILLISECONDS = 1.0, 50.0
REPEATS = 5
FILLS = {"fits": 90, "overfull": 115}
"""Accelerators asked for, in percent of what there is."""
MOVES = 2
FLEETS = 500
GANGS = (
    *(Gang(1, 1),) * 12,
    *(Gang(1, 2),) * 5,
    *(Gang(1, 4),) * 3,
    Gang(1, 8),
    Gang(1, 1, share=400),
    Gang(2, 8, within=Near.RACK),
)
HIGH, USUAL, LOW = 100, 50, 0


@dataclass(frozen=True)
class Scene:
    """A fleet, who holds what in it, and what is asked for."""

    hosts: Mapping[str, Host]
    holds: Mapping[str, Hold]
    demands: Mapping[str, Demand]


@dataclass(frozen=True)
class Taken:
    """Seconds of one plan."""

    cpu: float
    wall: float
    plan: PlacementPlan


def main() -> None:
    records = [record for size in SIZES for fill in FILLS for record in measure(size, fill)]
    write_records("placing_growth", [*records, compare_with_optimum()])


def measure(accelerators: int, fill: str) -> Iterator[Record]:
    """A full plan, then what changes in a fleet that runs by it."""
    scene = make_scene(accelerators, FILLS[fill])
    repeats = [plan_anew(scene) for _ in range(REPEATS)]
    room, first = repeats[-1][0], repeats[-1][1].plan
    yield _record(
        f"placing_full_seconds_{accelerators}_accelerators_{fill}",
        [taken.cpu for _, taken in repeats],
        unit="s",
        goal=f"<={FULL_SECONDS}" if accelerators == STATED else "",
        more={
            "models": len(scene.demands),
            "placed": len(first.placed),
            "pending": len(first.pending),
            "wall_seconds": [round(taken.wall, 4) for _, taken in repeats],
        },
    )
    running = carried_out(scene, room, first)
    room.update(running.hosts, running.holds)
    changes = {
        name: [plan_again(room, running, change) for _ in range(REPEATS)] for name, change in CHANGES.items()
    }
    medians = {
        name: round(statistics.median(each.cpu for each in taken) * 1000, 2)
        for name, taken in changes.items()
    }
    yield _record(
        f"placing_incremental_ms_{accelerators}_accelerators_{fill}",
        [max(medians.values())],
        unit="ms",
        goal=f"<={INCREMENTAL_MILLISECONDS}" if accelerators == STATED else "",
        more={
            "median_of_each_change": medians,
            "outcomes": {name: _outcome(taken[-1].plan) for name, taken in changes.items()},
        },
    )


def make_scene(accelerators: int, fill: int) -> Scene:
    """Nodes of 8, every fourth of another kind with two link domains; 16 to a rack."""
    chance = Random(accelerators)  # noqa: S311 - no secret
    hosts = {}
    for number in range(accelerators // 8):
        kind, domains = (("small",), (4, 4)) if number % 4 == 3 else (("large",), (8,))
        hosts[f"n{number:05}"] = Host(f"n{number:05}", kind, domains, f"r{number // 16}")
    demands: dict[str, Demand] = {}
    asked = 0
    while asked * 100 < accelerators * fill:
        demand = _make_demand(chance, len(demands))
        demands[demand.model] = demand
        asked += demand.options[0].gang.total * len(demand.missing)
    return Scene(hosts, {}, demands)


def _make_demand(chance: Random, number: int) -> Demand:
    model, gang, price = f"m{number:05}", chance.choice(GANGS), chance.randint(10, 90)
    options = [Option("large", gang, price)]
    if gang.accelerators <= 4:
        options.append(Option("small", gang, price + chance.randint(-9, 9)))
    return Demand(
        model=model,
        priority=chance.choice((HIGH, USUAL, USUAL, USUAL, LOW)),
        options=tuple(sorted(options, key=lambda option: option.price)),
        missing=tuple(f"{model}.{ordinal}" for ordinal in range(chance.randint(1, 3))),
        turn=number,
    )


def plan_anew(scene: Scene) -> tuple[Room, Taken]:
    room = Room()
    return room, _timed(lambda: _update_and_plan(room, scene))


def plan_again(room: Room, before: Scene, change: Callable[[Scene], Scene]) -> Taken:
    """The pass after a change; the room is as before again afterwards."""
    after = change(before)
    taken = _timed(lambda: _update_and_plan(room, after))
    room.update(before.hosts, before.holds)
    return taken


def carried_out(scene: Scene, room: Room, plan: PlacementPlan) -> Scene:
    """All that has a place runs there; who waits goes on asking."""
    holds = {name: room.holds[name]._replace(since=float(number)) for number, name in enumerate(plan.placed)}
    demands = {
        model: replace(demand, missing=tuple(each for each in demand.missing if each in plan.pending))
        for model, demand in scene.demands.items()
    }
    return Scene(scene.hosts, holds, demands)


def nothing(scene: Scene) -> Scene:
    return scene


def one_replica_more(scene: Scene) -> Scene:
    return _asking(scene, "new", Gang(1, 2), priority=USUAL)


def an_urgent_model_of_eight(scene: Scene) -> Scene:
    return _asking(scene, "urgent", Gang(1, 8), priority=HIGH)


def an_urgent_model_over_two_hosts(scene: Scene) -> Scene:
    return _asking(scene, "urgent", Gang(2, 8, within=Near.RACK), priority=HIGH)


def a_host_is_lost(scene: Scene) -> Scene:
    """Its replicas ask for another place."""
    lost = min(scene.hosts)
    holds = {
        name: hold for name, hold in scene.holds.items() if all(part.host != lost for part in hold.place)
    }
    demands = dict(scene.demands)
    for name in scene.holds.keys() - holds.keys():
        demand = demands[scene.holds[name].model]
        demands[demand.model] = replace(demand, missing=(*demand.missing, f"{name}.again"))
    hosts = {name: host for name, host in scene.hosts.items() if name != lost}
    return Scene(hosts, holds, demands)


CHANGES: Mapping[str, Callable[[Scene], Scene]] = {
    change.__name__: change
    for change in (
        nothing,
        one_replica_more,
        an_urgent_model_of_eight,
        an_urgent_model_over_two_hosts,
        a_host_is_lost,
    )
}


def _asking(scene: Scene, model: str, gang: Gang, *, priority: int) -> Scene:
    demand = Demand(model=model, priority=priority, options=(Option("large", gang),), missing=(f"{model}.0",))
    return Scene(scene.hosts, scene.holds, {**scene.demands, model: demand})


def _update_and_plan(room: Room, scene: Scene) -> PlacementPlan:
    room.update(scene.hosts, scene.holds)
    return plan_places(room, scene.demands, moves=MOVES)


def _timed(planned: Callable[[], PlacementPlan]) -> Taken:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    plan = planned()
    return Taken(time.process_time() - cpu, time.perf_counter() - wall, plan)


def _outcome(plan: PlacementPlan) -> dict[str, int]:
    return {
        "placed": len(plan.placed),
        "pending": len(plan.pending),
        "displaced": len(plan.displaced),
        "moved": len(plan.moved),
    }


def compare_with_optimum() -> Record:
    """Accelerators of hosts in use, ours over the exact solver's, on small fleets."""
    metric, goal = "placement_gpu_ratio_to_optimum", "<=1.02"
    if not PYTHON.exists():
        why = "no exact solver here: make .venv-exact/.installed"
        return _record(metric, [], unit="ratio", goal=goal, more={"why": why})
    found = compare(find_optima(range(FLEETS)))
    return _record(
        metric,
        [found.accelerators_ratio],
        unit="ratio",
        goal=goal,
        more={
            "solver": "OR-Tools CP-SAT",
            "fleets": found.fleets,
            "same_replicas_placed": found.same,
            "placed_ratio": round(found.placed_ratio, 4),
            "price_ratio": round(found.price_ratio, 4),
            "fleets_where_all_have_room_and_not_all_a_place": len(found.misfits),
            "infeasible": len(found.faults),
        },
    )


def _record(metric: str, values: list[float], *, unit: str, goal: str, more: Mapping[str, object]) -> Record:
    return Record(
        metric=metric,
        value=round(statistics.median(values), 4) if values else None,
        unit=unit,
        goal=goal,
        peers={"repeats": [round(value, 4) for value in values], **more},
        versions=installed_versions(),
        command=this_command(),
    )


if __name__ == "__main__":
    main()
