"""Small fleets with more or less to place, drawn from a seed: what the plan and the exact solver both get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from plinth.domain.placing.demands import WHOLE, Demand, Gang, Near, Option
from plinth.domain.placing.hosts import Hold, Host, Part

LARGE, SMALL = "large", "small"
"""Two kinds of accelerators, each in a pool of its own."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    hosts: Mapping[str, Host]
    holds: Mapping[str, Hold]
    demands: Mapping[str, Demand]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a plan comes to."""

    placed: frozenset[str]
    price: int
    accelerators_begun: int
    """Of all hosts that anything is on."""


def draw_instance(seed: int) -> Instance:
    """4 to 8 hosts of 4 or 8 accelerators, some held; up to 18 replicas of all shapes, sometimes more than fit."""
    chance = Random(seed)  # noqa: S311 - no secret
    hosts = {host.name: host for host in _draw_hosts(chance)}
    holds = {hold.replica: hold for hold in _draw_holds(chance, hosts)}
    total = sum(sum(host.domains) for host in hosts.values()) - sum(
        hold.gang.total for hold in holds.values()
    )
    fill = chance.choice((35, 50, 65, 80, 110))
    demands: dict[str, Demand] = {}
    asked = replicas = 0
    while asked * 100 < total * fill and replicas < 18:
        demand = _draw_demand(
            chance, f"m{len(demands)}", two_kinds=len({h.pools for h in hosts.values()}) > 1
        )
        demands[demand.model] = demand
        asked += sum(demand.options[0].gang.total for _ in demand.missing)
        replicas += len(demand.missing)
    return Instance(hosts=hosts, holds=holds, demands=demands)


def _draw_hosts(chance: Random) -> list[Host]:
    kinds = chance.choice(((LARGE,), (LARGE, SMALL)))
    sizes = chance.choice((((8,),), ((8,), (4,)), ((4, 4), (8,)), ((4,), (2, 2))))
    racks = chance.randint(1, 3)
    return [
        Host(f"n{number}", (chance.choice(kinds),), chance.choice(sizes), rack=f"r{number % racks}")
        for number in range(chance.randint(4, 8))
    ]


def _draw_holds(chance: Random, hosts: Mapping[str, Host]) -> list[Hold]:
    found = []
    for host in hosts.values():
        first = 0
        for domain in host.domains:
            size = chance.choice((0, 0, 1, 2, 3))
            if 0 < size <= domain:
                part = Part(host.name, tuple(range(first, first + size)))
                name = f"old.{host.name}.{first}"
                found.append(Hold(name, "old", host.pools[0], Gang(1, size), (part,)))
            first += domain
    return found


def _draw_demand(chance: Random, model: str, *, two_kinds: bool) -> Demand:
    gang = _draw_gang(chance)
    options = [Option(LARGE, gang, chance.randint(1, 9) * 10)]
    if two_kinds and chance.random() < 0.6:
        wider = gang._replace(accelerators=min(4, gang.accelerators * chance.choice((1, 2))))
        options.append(Option(SMALL, wider, chance.randint(1, 9) * 10))
    return Demand(
        model=model,
        options=tuple(sorted(options, key=lambda each: each.price)),
        missing=tuple(f"{model}.{number}" for number in range(chance.randint(1, 4))),
        turn=chance.randint(0, 5),
    )


def _draw_gang(chance: Random) -> Gang:
    form = chance.random()
    if form < 0.12:
        return Gang(2, chance.choice((2, 4)), within=chance.choice(list(Near)))
    if form < 0.25:
        return Gang(1, 1, share=chance.choice((WHOLE // 4, WHOLE // 2, WHOLE * 3 // 10)))
    return Gang(1, chance.choice((1, 1, 1, 2, 2, 3, 4, 4, 6, 8)))
