"""Hosts, holds and demands with defaults, and what must hold of every plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from plinth.domain.placing.demands import Demand, Gang, Near, Option
from plinth.domain.placing.hosts import Hold, Host, Part, Place, Standing
from plinth.domain.placing.plan import PlacementPlan, plan_places
from plinth.domain.placing.room import Room
from plinth.domain.placing.yielding import MOVED

POOL = "h200"


def make_host(
    name: str,
    *domains: int,
    pools: tuple[str, ...] = (POOL,),
    rack: str = "",
    standing: Standing = Standing.PRESENT,
) -> Host:
    return Host(name, pools, domains or (8,), rack, standing)


def make_hold(
    replica: str,
    host: str,
    *accelerators: int,
    model: str = "",
    share: int = 1000,
    pool: str = POOL,
    since: float = 0.0,
    leaving: bool = False,
) -> Hold:
    """The model is the replica's name up to the first dot."""
    gang = Gang(1, len(accelerators), share)
    model = model or replica.partition(".")[0]
    return Hold(replica, model, pool, gang, (Part(host, accelerators),), since, leaving)


def make_demand(
    model: str = "m",
    count: int = 1,
    *,
    accelerators: int = 1,
    parts: int = 1,
    share: int = 1000,
    within: Near = Near.POOL,
    options: tuple[Option, ...] = (),
    priority: int = 0,
    turn: float = 0.0,
    kept: int = 0,
) -> Demand:
    gang = Gang(parts, accelerators, share, within)
    return Demand(
        model=model,
        priority=priority,
        options=options or (Option(POOL, gang),),
        missing=tuple(f"{model}.{number}" for number in range(count)),
        turn=turn,
        kept=kept,
    )


def room_of(hosts: Iterable[Host], holds: Iterable[Hold] = ()) -> Room:
    room = Room()
    room.update({host.name: host for host in hosts}, {hold.replica: hold for hold in holds})
    return room


def plan_of(
    hosts: Iterable[Host], demands: Iterable[Demand], holds: Iterable[Hold] = (), *, moves: int = 0
) -> PlacementPlan:
    return plan_places(room_of(hosts, holds), {each.model: each for each in demands}, moves=moves)


def shown(place: Place) -> str:
    """`a:01 b:7`: hosts with their accelerators."""
    return " ".join(f"{part.host}:{''.join(map(str, part.accelerators))}" for part in place)


def places_of(plan: PlacementPlan) -> dict[str, str]:
    return {replica: shown(placed.place) for replica, placed in plan.placed.items()}


def faults_of(
    plan: PlacementPlan, hosts: Mapping[str, Host], holds: Mapping[str, Hold], demands: Mapping[str, Demand]
) -> list[str]:
    """All that is wrong with a plan, worked out from what was given and nothing else."""
    asked = {replica: demand for demand in demands.values() for replica in demand.missing}
    found = [
        f"{name} has no fate, or two" for name in asked if (name in plan.placed) == (name in plan.pending)
    ]
    for name, placed in plan.placed.items():
        if (placed.pool, placed.gang) not in {(each.pool, each.gang) for each in asked[name].options}:
            found.append(f"{name} has a shape that nobody asked for")
        found += _gang_faults(name, placed.pool, placed.gang, placed.place, hosts)
    for name, move in plan.moved.items():
        found += _gang_faults(name, holds[name].pool, holds[name].gang, move.place, hosts)
    return found + _capacity_faults(plan, hosts, holds)


def _gang_faults(name: str, pool: str, gang: Gang, place: Place, hosts: Mapping[str, Host]) -> list[str]:
    found = []
    if [len(part.accelerators) for part in place] != [gang.accelerators] * gang.parts:
        found.append(f"{name} is not whole")
    used = [(part.host, each) for part in place for each in part.accelerators]
    if len(used) != len(set(used)):
        found.append(f"{name} has an accelerator twice")
    for part in place:
        host = hosts[part.host]
        if pool not in host.pools:
            found.append(f"{name} is on a host of another pool")
        domain_of = [number for number, size in enumerate(host.domains) for _ in range(size)]
        if len({domain_of[each] for each in part.accelerators}) != 1:
            found.append(f"{name} has a part in two link domains")
    if gang.within is Near.HOST and len({part.host for part in place}) != 1:
        found.append(f"{name} is not on one host")
    if gang.within is Near.RACK and len({hosts[part.host].rack for part in place}) != 1:
        found.append(f"{name} is not in one rack")
    return found


def _capacity_faults(plan: PlacementPlan, hosts: Mapping[str, Host], holds: Mapping[str, Hold]) -> list[str]:
    """What starts now must fit beside all that runs; what waits, once those have left that it waits for; all, in the end.

    What waits for others that are still there is not there yet.
    """
    to_come = {name: (placed.gang, placed.place) for name, placed in plan.placed.items()}
    to_come |= {name + MOVED: (holds[name].gang, move.place) for name, move in plan.moved.items()}
    awaited = {name: set(plan.placed[name].after) if name in plan.placed else set() for name in to_come}
    found = []
    for name, (_, place) in to_come.items():
        for gone in (awaited[name], set[str]().union(*awaited.values())):
            beside = [(hold.gang, hold.place) for hold in holds.values() if hold.replica not in gone]
            come = [each for other, each in to_come.items() if awaited[other] <= gone]
            taken = _taken([*beside, *come])
            found += [
                f"{name} has no room on {part.host}"
                for part in place
                if any(taken[part.host, each] > hosts[part.host].whole for each in part.accelerators)
            ]
    return found


def _taken(held: Iterable[tuple[Gang, Place]]) -> Counter[tuple[str, int]]:
    taken = Counter[tuple[str, int]]()
    for gang, place in held:
        for part in place:
            for each in part.accelerators:
                taken[part.host, each] += gang.share
    return taken
