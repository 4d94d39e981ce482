"""What the cycle relies on in the `Gateway` port, held against the cycle tests' fake and the real process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from plinth.controllers.ports import Gateway
from plinth.domain.traffic import (
    Availability,
    LoadReport,
    ModelRoute,
    ReplicaRoute,
    ReplicaState,
    RouteTable,
)

Pass = Callable[[], Awaitable[None]]


MODEL = "default/chat"


def make_table(*replicas: ReplicaRoute, model: str = MODEL) -> RouteTable:
    route = ModelRoute(
        model=model,
        names=("chat", model),
        task="Generate",
        created=0,
        availability=Availability.AVAILABLE,
        message="",
        replicas=replicas,
    )
    return RouteTable(version=0, models=(route,))


def make_replica(
    port: int, state: ReplicaState = ReplicaState.READY, *, host: str = "127.0.0.1", model: str = MODEL
) -> ReplicaRoute:
    return ReplicaRoute(slot=slot_of(model), host=host, port=port, path="/x", state=state, concurrency=4)


def slot_of(model: str) -> str:
    return f"{model.replace('/', '.')}.cafe.0"


async def holds(
    gateway: Gateway, passing: Pass, *, replica_port: int, host: str = "127.0.0.1", model: str = MODEL
) -> None:
    """The whole contract; something must listen on `replica_port` of the host."""
    slot = slot_of(model)

    def table(state: ReplicaState) -> RouteTable:
        return make_table(make_replica(replica_port, state, host=host, model=model), model=model)

    first = gateway.send(table(ReplicaState.READY))
    assert gateway.send(table(ReplicaState.READY)) == first, "an unchanged table keeps its version"
    report = await until(gateway, passing, lambda found: found.table_version == first)
    assert report.replicas[slot].state is ReplicaState.READY
    assert report.replicas[slot].in_flight == 0
    assert report.models[model].in_flight == 0
    draining = gateway.send(table(ReplicaState.DRAINING))
    assert draining > first
    report = await until(gateway, passing, lambda found: found.table_version == draining)
    assert report.replicas[slot].state is ReplicaState.DRAINING
    gone = gateway.send(make_table(model=model))
    report = await until(gateway, passing, lambda found: found.table_version == gone)
    assert report.replicas == {}
    assert report.models[model].queued == 0


async def until(gateway: Gateway, passing: Pass, done: Callable[[LoadReport], bool]) -> LoadReport:
    for _ in range(200):
        latest = gateway.latest_report()
        if latest is not None and done(latest[0]):
            return latest[0]
        await passing()
    raise AssertionError(f"did not come to be: {gateway.latest_report()}")
