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


def make_table(*replicas: ReplicaRoute) -> RouteTable:
    route = ModelRoute(
        model="default/chat",
        names=("chat", "default/chat"),
        task="Generate",
        created=0,
        availability=Availability.AVAILABLE,
        message="",
        replicas=replicas,
    )
    return RouteTable(version=0, models=(route,))


def make_replica(port: int, state: ReplicaState = ReplicaState.READY) -> ReplicaRoute:
    return ReplicaRoute(
        slot="default.chat.cafe.0", host="127.0.0.1", port=port, path="/x", state=state, concurrency=4
    )


async def holds(gateway: Gateway, passing: Pass, *, replica_port: int) -> None:
    """The whole contract; something must listen on `replica_port`."""
    first = gateway.send(make_table(make_replica(replica_port)))
    assert gateway.send(make_table(make_replica(replica_port))) == first, (
        "an unchanged table keeps its version"
    )
    report = await until(gateway, passing, lambda found: found.table_version == first)
    assert report.replicas["default.chat.cafe.0"].state is ReplicaState.READY
    assert report.replicas["default.chat.cafe.0"].in_flight == 0
    assert report.models["default/chat"].in_flight == 0
    draining = gateway.send(make_table(make_replica(replica_port, ReplicaState.DRAINING)))
    assert draining > first
    report = await until(gateway, passing, lambda found: found.table_version == draining)
    assert report.replicas["default.chat.cafe.0"].state is ReplicaState.DRAINING
    gone = gateway.send(make_table())
    report = await until(gateway, passing, lambda found: found.table_version == gone)
    assert report.replicas == {}
    assert report.models["default/chat"].queued == 0


async def until(gateway: Gateway, passing: Pass, done: Callable[[LoadReport], bool]) -> LoadReport:
    for _ in range(200):
        latest = gateway.latest_report()
        if latest is not None and done(latest[0]):
            return latest[0]
        await passing()
    raise AssertionError(f"did not come to be: {gateway.latest_report()}")
