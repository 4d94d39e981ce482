"""Routes on their way into the cluster: what is written, what is left alone, what is put right."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from plinth.cluster.kube import slice_writer
from plinth.cluster.kube.client import ENDPOINT_SLICE
from plinth.cluster.kube.errors import KubeAway, KubeRefused, NotLeaderError
from plinth.cluster.kube.slice_gateway import SliceGateway
from plinth.desired.endpoint_slices import Owner, marker, owner_reference, slices_of
from plinth.desired.slice_reading import route_table
from plinth.domain.traffic import Availability, ModelRoute, ReplicaRoute, ReplicaState, RouteTable
from plinth.tests.cluster.kube.fake_api_server import FakeApiServer

pytestmark = pytest.mark.process

COLLECTION = "/apis/discovery.k8s.io/v1/endpointslices"
RELEASE = "plinth-system"
MARKER = f"{RELEASE}/plinth.table"


def make_replica(model: str, ordinal: int = 0, *, state: ReplicaState = ReplicaState.READY) -> ReplicaRoute:
    slot = f"{model.replace('/', '.')}.0c5e9f1a.{ordinal}"
    return ReplicaRoute(
        slot=slot, host="10.0.0.7", port=31000 + ordinal, path=f"/{slot}", state=state, concurrency=4
    )


def make_route(model: str, *replicas: ReplicaRoute, message: str = "") -> ModelRoute:
    return ModelRoute(
        model=model,
        names=(model,),
        task="Generate",
        created=1,
        availability=Availability.AVAILABLE,
        message=message,
        replicas=replicas,
    )


def make_table(*routes: ModelRoute) -> RouteTable:
    return RouteTable(version=0, models=routes)


CHAT, OTHER = "team-a/chat", "team-b/other"
TABLE = make_table(make_route(CHAT, make_replica(CHAT)), make_route(OTHER, make_replica(OTHER)))


@dataclass
class World:
    """An API server in memory, the gateway port of one leader, and who still exists."""

    server: FakeApiServer
    folder: Path
    owners: dict[str, Owner | None] = field(default_factory=dict)
    may_write: bool = True

    def find_owner(self, model: str) -> Owner | None:
        return self.owners.get(model, owner_reference(model.partition("/")[2], f"uid-of-{model}"))

    def check(self) -> None:
        if not self.may_write:
            raise NotLeaderError("somebody else leads")

    @asynccontextmanager
    async def leader(self, *, first_version: int = 1000) -> AsyncIterator[SliceGateway]:
        gateway = SliceGateway(
            self.server.client().fenced(self),
            namespace=RELEASE,
            token_file=self.folder / "token",
            find_owner=self.find_owner,
            first_version=first_version,
            wake=lambda: None,
            clock=time.time,
        )
        try:
            async with asyncio.timeout(5):
                await gateway.start()
            yield gateway
        finally:
            await gateway.close()

    @property
    def slices(self) -> dict[str, dict[str, Any]]:
        return {
            f"{namespace}/{name}": item
            for (collection, namespace, name), item in self.server.objects.items()
            if collection == COLLECTION
        }

    @property
    def written(self) -> list[str]:
        """The slices written since `forget`, in order."""
        return [
            path.removeprefix("/apis/discovery.k8s.io/v1/namespaces/").replace("/endpointslices", "")
            for _, path in self.server.writes
        ]

    def forget(self) -> None:
        self.server.writes.clear()

    def read(self) -> RouteTable:
        return route_table(self.slices.values(), release_namespace=RELEASE).table

    async def settle(self, version: int) -> None:
        await eventually(lambda: self.read().version == version)
        await asyncio.sleep(3 * slice_writer.SETTLE_SECONDS)


async def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(FakeApiServer(), tmp_path)


async def test_a_table_is_written_and_its_marker_last(world: World) -> None:
    async with world.leader() as gateway:
        version = gateway.send(TABLE)
        await world.settle(version)
    assert world.read() == replace(TABLE, version=version)
    assert sorted(world.written[:-1]) == [
        "team-a/plinth.chat",
        "team-a/plinth.chat.0c5e9f1a.0",
        "team-b/plinth.other",
        "team-b/plinth.other.0c5e9f1a.0",
    ]
    assert world.written[-1] == MARKER


async def test_an_unchanged_table_keeps_its_version_and_writes_nothing(world: World) -> None:
    async with world.leader() as gateway:
        version = gateway.send(TABLE)
        await world.settle(version)
        world.forget()
        assert gateway.send(make_table(*TABLE.models)) == version
        await asyncio.sleep(0.2)
    assert world.written == []


async def test_a_change_of_one_model_makes_only_its_slices_and_writes_only_what_changed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def make_slices(route: ModelRoute, owner: Owner) -> list[dict[str, Any]]:
        made.append(route.model)
        return slices_of(route, owner)

    async with world.leader() as gateway:
        await world.settle(gateway.send(TABLE))
        world.forget()
        monkeypatch.setattr(slice_writer, "slices_of", make_slices)
        draining = make_route(OTHER, make_replica(OTHER, state=ReplicaState.DRAINING))
        await world.settle(gateway.send(make_table(TABLE.models[0], draining)))
    assert made == [OTHER]
    assert world.written == ["team-b/plinth.other.0c5e9f1a.0", MARKER]


async def test_a_new_leader_writes_nothing_but_the_marker_of_a_higher_version(world: World) -> None:
    async with world.leader(first_version=5000) as gateway:
        before = gateway.send(TABLE)
        await world.settle(before)
    world.forget()
    async with world.leader(first_version=10) as gateway:  # its clock is behind
        version = gateway.send(TABLE)
        await world.settle(version)
    assert version > before
    assert world.written == [MARKER]


async def test_nothing_is_touched_before_the_first_table(world: World) -> None:
    async with world.leader() as gateway:
        await world.settle(gateway.send(TABLE))
    world.forget()
    async with world.leader():
        await asyncio.sleep(0.3)
    assert world.written == []
    assert len(world.slices) == 5


@pytest.mark.parametrize("harm", ["edited", "deleted", "relabelled"])
async def test_drift_is_put_right_at_once(world: World, harm: str) -> None:
    name = "team-a/plinth.chat.0c5e9f1a.0"
    async with world.leader() as gateway:
        await world.settle(gateway.send(TABLE))
        table = world.read()
        slice_ = world.slices[name]
        if harm == "deleted":
            namespace, own_name = name.split("/")
            await world.server.client().delete(ENDPOINT_SLICE, namespace, own_name)
        else:
            changed = {"ports": [{"port": 1}]} if harm == "edited" else {}
            labels = {**slice_["metadata"]["labels"], "plinth.dev/model": "mine"}
            metadata = (
                {**slice_["metadata"], "labels": labels} if harm == "relabelled" else slice_["metadata"]
            )
            world.server.put(COLLECTION, {**slice_, **changed, "metadata": metadata})
        await eventually(lambda: world.read() != table)
        await eventually(lambda: world.read() == table)


async def test_what_nobody_wants_goes(world: World) -> None:
    for each in slices_of(make_route("team-a/stranger", make_replica("team-a/stranger")), {"uid": "x"}):
        world.server.put(COLLECTION, each)
    async with world.leader() as gateway:
        version = gateway.send(TABLE)
        await world.settle(version)
        assert world.read() == replace(TABLE, version=version)
        forged = slices_of(make_route("team-a/late"), {"uid": "x"})[0]
        world.server.put(COLLECTION, forged)
        await eventually(lambda: "team-a/plinth.late" not in world.slices)


async def test_the_slices_of_a_deleted_model_go_at_once(world: World) -> None:
    async with world.leader() as gateway:
        await world.settle(gateway.send(TABLE))
        leaving = make_route(CHAT, make_replica(CHAT, state=ReplicaState.DRAINING))
        world.owners[CHAT] = None
        await world.settle(gateway.send(make_table(leaving, TABLE.models[1])))
    assert [route.model for route in world.read().models] == [OTHER]


async def test_a_model_made_anew_under_its_old_name_gets_slices_of_its_own(world: World) -> None:
    async with world.leader() as gateway:
        await world.settle(gateway.send(TABLE))
        world.owners[CHAT] = owner_reference("chat", "another-uid")
        await world.server.client().delete(ENDPOINT_SLICE, "team-a", "plinth.chat")
        await eventually(
            lambda: (
                all(
                    each["metadata"]["ownerReferences"][0]["uid"] == "another-uid"
                    for name, each in world.slices.items()
                    if name.startswith("team-a/")
                )
                and len(world.slices) == 5
            )
        )


async def test_unknown_models_keep_the_slices_that_they_have(world: World) -> None:
    async with world.leader() as gateway:
        await world.settle(gateway.send(TABLE))
    world.forget()
    async with world.leader() as gateway:  # one that never knew them
        empty = make_table(make_route(CHAT), TABLE.models[1])
        await world.settle(gateway.send(empty, unknown=frozenset({CHAT})))
        assert world.read().models == TABLE.models
        assert world.written == [MARKER]
        version = gateway.send(empty)
        await world.settle(version)
        assert world.read() == replace(empty, version=version)


async def test_while_the_api_server_is_away_the_newest_table_waits(world: World) -> None:
    async def away(_method: str, _path: str) -> None:
        raise KubeAway("no answer")

    async with world.leader() as gateway:
        await world.settle(gateway.send(TABLE))
        world.server.before = away
        for message in ("one", "two", "three"):
            gateway.send(make_table(make_route(CHAT, make_replica(CHAT), message=message), TABLE.models[1]))
            await asyncio.sleep(0.05)
        before, world.server.before = world.read(), FakeApiServer().before
        version = gateway.send(make_table(TABLE.models[1]))
        await world.settle(version)
        assert before.models == TABLE.models
        assert world.read() == RouteTable(version=version, models=(TABLE.models[1],))


async def test_a_write_whose_answer_was_lost_is_made_sure_of_before_the_marker_tells_of_it(
    world: World,
) -> None:
    lost: list[str] = []

    async def lose(method: str, path: str) -> None:
        if method == "PATCH" and path.endswith("plinth.chat") and len(lost) < 2:
            lost.append(path)
            raise KubeAway("the answer was lost")

    world.server.after = lose
    async with world.leader() as gateway:
        version = gateway.send(TABLE)
        await world.settle(version)
    assert lost
    assert world.written.index(MARKER) == len(world.written) - 1
    assert world.read() == replace(TABLE, version=version)


async def test_a_slice_that_is_refused_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slice_writer, "REFUSED_SECONDS", 0.5)
    refusing = True

    async def refuse(method: str, path: str) -> None:
        if refusing and method == "PATCH" and "/team-a/" in path:
            raise KubeRefused(403, "Forbidden", "the namespace is being terminated")

    world.server.before = refuse
    async with world.leader() as gateway:
        version = gateway.send(TABLE)
        await world.settle(version)
        assert [route.model for route in world.read().models] == [OTHER]
        refusing = False
        await eventually(lambda: world.read() == replace(TABLE, version=version))


async def test_who_may_not_write_writes_nothing_until_it_may(world: World) -> None:
    world.may_write = False
    async with world.leader() as gateway:
        version = gateway.send(TABLE)
        await asyncio.sleep(0.3)
        assert world.slices == {}
        world.may_write = True
        await world.settle(version)


async def test_an_address_of_another_family_takes_the_place_of_the_old_one(world: World) -> None:
    async with world.leader() as gateway:
        await world.settle(gateway.send(TABLE))
        moved = replace(make_replica(CHAT), host="fd00::7")
        table = make_table(make_route(CHAT, moved), TABLE.models[1])
        version = gateway.send(table)
        await world.settle(version)
    assert world.slices["team-a/plinth.chat.0c5e9f1a.0"]["addressType"] == "IPv6"
    assert world.read() == replace(table, version=version)


async def test_a_marker_that_makes_no_sense_is_replaced(world: World) -> None:
    broken = marker(RELEASE, 0)
    broken["metadata"]["annotations"] = {"plinth.dev/table-version": "many"}
    world.server.put(COLLECTION, broken)
    async with world.leader() as gateway:
        await world.settle(gateway.send(TABLE))


async def test_a_thousand_models_cost_little_while_nothing_changes(world: World) -> None:
    models = [f"team-{index % 7}/model-{index}" for index in range(1000)]

    def thousand(message: str = "") -> RouteTable:
        return make_table(
            *(make_route(each, make_replica(each), message=message * (each == models[0])) for each in models)
        )

    async with world.leader() as gateway:
        version = gateway.send(thousand())
        await eventually(lambda: len(world.slices) == 2001, 60)
        await world.settle(version)
        again, changed = thousand(), thousand("changed")
        world.forget()
        began = time.perf_counter()
        assert gateway.send(again) == version
        unchanged_seconds = time.perf_counter() - began
        began = time.perf_counter()
        version = gateway.send(changed)
        changed_seconds = time.perf_counter() - began
        await world.settle(version)
    assert unchanged_seconds < 0.02
    assert changed_seconds < 0.04
    assert world.written == ["team-0/plinth.model-0", MARKER]
