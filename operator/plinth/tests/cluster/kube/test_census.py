"""The comparison of the store with the API server's own list, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from plinth.cluster.kube.census import PATIENCE_SECONDS, REGULAR_SECONDS, Census
from plinth.cluster.kube.errors import KubeAway
from plinth.cluster.kube.kinds import GPU_POOL, MODEL_DEPLOYMENT
from plinth.cluster.kube.store import KubernetesStore
from plinth.tests.cluster.kube.fake_api_server import FakeApiServer
from plinth.tests.cluster.kube.stored_objects import MODELS, put_model
from plinth.tests.cluster.kube.virtual_time import run_in_virtual_time


class Office:
    def __init__(self) -> None:
        self.server = FakeApiServer()
        self.store = KubernetesStore()
        self.changes = 0
        self.complaints = 0
        self.census = Census(
            self.server.client(),
            self.store,
            (GPU_POOL, MODEL_DEPLOYMENT),
            on_change=self.changed,
            on_missing=self.complain,
        )

    def changed(self) -> None:
        self.changes += 1

    def complain(self) -> None:
        self.complaints += 1

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.census.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    def delete_unnoticed(self, name: str) -> None:
        del self.server.objects[MODELS, "team-a", name]


def test_the_store_is_complete_only_when_every_listed_object_is_in_it() -> None:
    async def story() -> None:
        office = Office()
        first, second = put_model(office.server, "a"), put_model(office.server, "b")
        async with office.open():
            office.store.put(first)
            await asyncio.sleep(2)
            assert not office.census.synced
            office.store.put(second)
            await asyncio.sleep(1)
            assert office.census.synced
            assert office.changes == 1

    run_in_virtual_time(story())


def test_a_cluster_without_resources_is_complete_at_once() -> None:
    async def story() -> None:
        office = Office()
        async with office.open():
            async with asyncio.timeout(1):
                await office.census.wait_synced()

    run_in_virtual_time(story())


def test_while_the_api_server_is_away_nothing_is_complete_nor_taken_for_gone() -> None:
    async def story() -> None:
        office = Office()
        item = put_model(office.server, "a")

        async def away(_method: str, _path: str) -> None:
            raise KubeAway("away")

        office.server.before = away
        office.store.put(item)
        async with office.open():
            await asyncio.sleep(300)
            assert not office.census.synced
            assert office.store.known()
            assert not office.complaints

    run_in_virtual_time(story())


def test_what_was_deleted_unnoticed_goes_after_a_hint_and_at_the_latest_after_a_few_minutes() -> None:
    async def story() -> None:
        office = Office()
        for name in ("a", "b", "c"):
            office.store.put(put_model(office.server, name))
        async with office.open():
            await asyncio.sleep(1)
            office.delete_unnoticed("a")
            for _ in range(100):
                office.census.hint()
            await asyncio.sleep(1)
            assert len(office.store.known()) == 2
            office.delete_unnoticed("b")
            await asyncio.sleep(REGULAR_SECONDS + 1)
            assert len(office.store.known()) == 1
            assert office.changes == 3

    run_in_virtual_time(story())


def test_what_came_while_the_list_was_made_is_not_taken_for_gone() -> None:
    async def story() -> None:
        office = Office()
        put_model(office.server, "a")

        async def meanwhile(_method: str, _path: str) -> None:
            office.server.after = FakeApiServer().after
            office.store.put(put_model(office.server, "new"))

        office.server.after = meanwhile
        await office.census.take()
        assert [key.name for key in office.store.known()] == ["new"]

    run_in_virtual_time(story())


def test_objects_that_are_never_seen_are_complained_about() -> None:
    async def story() -> None:
        office = Office()
        put_model(office.server, "a")
        async with office.open():
            await asyncio.sleep(PATIENCE_SECONDS + 1)
            assert office.complaints == 1

    run_in_virtual_time(story())
