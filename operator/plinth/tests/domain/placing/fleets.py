"""Fleets for Hypothesis: little of everything, so that it collides."""

from __future__ import annotations

from hypothesis import strategies as st

from plinth.domain.placing.demands import Demand, Gang, Near, Option
from plinth.domain.placing.finding import find_place
from plinth.domain.placing.hosts import Hold, Host, Part, Standing
from plinth.domain.placing.room import Room
from plinth.tests.domain.placing.instances import LARGE, SMALL, Instance

POOLS = st.sampled_from([LARGE, LARGE, SMALL])
GANGS = st.one_of(
    st.sampled_from([Gang(1, size) for size in (1, 2, 3, 4)]),
    st.sampled_from([Gang(1, size, share) for size in (1, 2) for share in (250, 400, 600)]),
    st.sampled_from([Gang(2, size, within=near) for size in (1, 2, 4) for near in Near]),
    st.sampled_from([Gang(2, 1, 400, within=near) for near in Near]),
)


@st.composite
def fleets(draw: st.DrawFn) -> Instance:
    """Up to four hosts, replicas that run and some that leave, demands of three priorities."""
    hosts = {}
    for number in range(draw(st.integers(1, 4))):
        name = f"n{number}"
        sizes = draw(st.sampled_from([(4,), (2, 2), (8,)]))
        standing = draw(st.sampled_from([Standing.PRESENT, Standing.PRESENT, Standing.POSSIBLE]))
        hosts[name] = Host(name, (draw(POOLS),), sizes, f"r{draw(st.integers(0, 1))}", standing)
    names = [f"m{number}" for number in range(draw(st.integers(1, 6)))]
    holds = {hold.replica: hold for hold in draw(_holds(hosts, [*names, "unknown"]))}
    return Instance(hosts=hosts, holds=holds, demands={name: draw(_demands(name)) for name in names})


@st.composite
def _holds(draw: st.DrawFn, hosts: dict[str, Host], models: list[str]) -> list[Hold]:
    """Replicas wherever they fit, in whatever order."""
    room, found = Room(), []
    room.update(hosts, {})
    for number in range(draw(st.integers(0, 16))):
        model, option = draw(st.sampled_from(models)), Option(draw(POOLS), draw(GANGS))
        place = find_place(room, option, model, avoid=draw(st.sampled_from(sorted(hosts))))
        if place is not None:
            replica = f"{model}.old{number}"
            hold = Hold(
                replica,
                model,
                option.pool,
                option.gang,
                place,
                draw(st.integers(0, 9)),
                draw(st.integers(0, 3)) == 0,
            )
            found.append(hold)
            room.put(hold)
    return found


@st.composite
def _demands(draw: st.DrawFn, model: str) -> Demand:
    gangs = draw(st.lists(GANGS, min_size=1, max_size=2))
    return Demand(
        model=model,
        priority=draw(st.sampled_from([0, 5, 9])),
        options=tuple(
            Option(pool, gang, price)
            for pool, gang, price in zip((LARGE, SMALL), gangs, (10, 20), strict=False)
        ),
        missing=tuple(f"{model}.{number}" for number in range(draw(st.integers(0, 4)))),
        turn=draw(st.integers(0, 2)),
        kept=draw(st.sampled_from([0, 0, 1])),
    )


@st.composite
def fragmented_fleets(draw: st.DrawFn) -> Instance:
    """Hosts of four with small replicas all over, and one that wants most of a host."""
    hosts, holds = {}, {}
    for number in range(draw(st.integers(2, 4))):
        name = f"n{number}"
        hosts[name] = Host(name, (LARGE,), (4,), standing=Standing.PRESENT)
        for index in draw(st.sets(st.integers(0, 3), max_size=3)):
            model = f"m{draw(st.integers(0, 2))}"
            replica = f"{model}.{name}.{index}"
            place = (Part(name, (index,)),)
            holds[replica] = Hold(replica, model, LARGE, Gang(1, 1), place, draw(st.integers(0, 9)))
    demands = {
        f"m{number}": Demand(model=f"m{number}", options=(Option(LARGE, Gang(1, 1)),)) for number in range(3)
    }
    wide = Option(LARGE, Gang(1, draw(st.integers(3, 4))))
    demands["wide"] = Demand(model="wide", options=(wide,), missing=("wide.0",))
    return Instance(hosts=hosts, holds=holds, demands=demands)
