"""Status writes in virtual time: only what differs, the newest of each object, whatever the network does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from plinth.api.v1alpha1 import ResourceKey
from plinth.cluster.kube.errors import KubeAway, KubeRefused, NotLeaderError
from plinth.cluster.kube.status_writer import WRITES_AT_ONCE, StatusWriter, says
from plinth.cluster.kube.store import AnyStatus, KubernetesStore
from plinth.tests.cluster.kube.fake_api_server import FakeApiServer
from plinth.tests.cluster.kube.stored_objects import MODELS, make_status, put_model
from plinth.tests.cluster.kube.virtual_time import run_in_virtual_time


def key(name: str) -> ResourceKey:
    return ResourceKey("ModelDeployment", "team-a", name)


class Desk:
    """A server, a store that follows it, and a writer."""

    def __init__(self, *names: str) -> None:
        self.server = FakeApiServer()
        self.store = KubernetesStore()
        for name in names:
            self.store.put(put_model(self.server, name))
        self.writer = StatusWriter(self.server.client(), self.store)
        self.store.on_status = self.writer.look

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.writer.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    def write(self, **statuses: AnyStatus) -> int:
        return self.writer.write({key(name): status for name, status in statuses.items()})

    def status(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.server.objects[MODELS, "team-a", name].get("status", {})
        return found


def test_a_status_is_written_once_and_nothing_is_while_nothing_changes() -> None:
    async def story() -> None:
        desk = Desk("a", "b")
        async with desk.open():
            assert desk.write(a=make_status(), b=make_status()) == 2
            await asyncio.sleep(1)
            assert desk.status("a")["shape"] == "1xTP1"
            for _ in range(10):
                assert desk.write(a=make_status(), b=make_status()) == 0
                await asyncio.sleep(1)
            assert len(desk.server.writes) == 2
            assert desk.server.writes[0] == (
                "PATCH",
                "/apis/plinth.dev/v1alpha1/namespaces/team-a/modeldeployments/a/status",
            )

    run_in_virtual_time(story())


def test_a_new_leader_does_not_write_again_what_the_api_server_has() -> None:
    async def story() -> None:
        desk = Desk("a")
        async with desk.open():
            desk.write(a=make_status())
            await asyncio.sleep(1)
        desk.writer = StatusWriter(desk.server.client(), desk.store)
        async with desk.open():
            desk.write(a=make_status())
            await asyncio.sleep(1)
        assert len(desk.server.writes) == 1

    run_in_virtual_time(story())


def test_of_many_statuses_of_an_object_only_the_newest_is_written_after_the_one_under_way() -> None:
    async def story() -> None:
        desk = Desk("a")

        async def slow(_method: str, _path: str) -> None:
            await asyncio.sleep(1)

        desk.server.before = slow
        async with desk.open():
            for number in range(20):
                desk.write(a=make_status(replicas=number))
                await asyncio.sleep(0.01)
            await asyncio.sleep(5)
            assert desk.status("a")["replicas"] == 19
            assert len(desk.server.writes) == 2
            assert desk.writer.queue == 0

    run_in_virtual_time(story())


def test_no_more_than_a_few_are_written_at_once() -> None:
    async def story() -> None:
        names = [f"m{number}" for number in range(100)]
        desk = Desk(*names)
        at_once = most = 0

        async def count(_method: str, _path: str) -> None:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.1)
            at_once -= 1

        desk.server.before = count
        async with desk.open():
            desk.write(**{name: make_status() for name in names})
            await asyncio.sleep(10)
        assert len(desk.server.writes) == 100
        assert most == WRITES_AT_ONCE

    run_in_virtual_time(story())


def test_what_fails_is_tried_again_until_the_api_server_is_back() -> None:
    async def story() -> None:
        desk = Desk("a", "b")
        away = True

        async def fail(_method: str, _path: str) -> None:
            if away:
                raise KubeAway("away")

        desk.server.before = fail
        async with desk.open():
            desk.write(a=make_status(), b=make_status())
            await asyncio.sleep(60)
            assert desk.writer.queue == 2
            away = False
            await asyncio.sleep(6)
            assert desk.status("a") == desk.status("b")
            assert desk.status("a")["shape"] == "1xTP1"
            assert desk.writer.queue == 0

    run_in_virtual_time(story())


def test_the_status_of_an_object_that_has_gone_is_dropped() -> None:
    async def story() -> None:
        desk = Desk("a")
        del desk.server.objects[MODELS, "team-a", "a"]
        async with desk.open():
            desk.write(a=make_status())
            await asyncio.sleep(60)
        assert desk.server.writes == []
        assert desk.writer.queue == 0

    run_in_virtual_time(story())


def test_a_refused_status_is_not_tried_again_until_something_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> None:
        desk = Desk("a")
        tries = 0

        async def refuse(_method: str, _path: str) -> None:
            nonlocal tries
            tries += 1
            raise KubeRefused(422, "Invalid", "status.shape: too long")

        desk.server.before = refuse
        async with desk.open():
            desk.write(a=make_status())
            await asyncio.sleep(60)
            assert tries == 1
            desk.write(a=make_status(replicas=2))
            await asyncio.sleep(60)
            assert tries == 2
        assert "too long" in caplog.text

    run_in_virtual_time(story())


def test_what_others_made_of_a_status_is_repaired_and_what_they_added_stays() -> None:
    async def story() -> None:
        desk = Desk("a")
        async with desk.open():
            desk.write(a=make_status())
            await asyncio.sleep(1)
            item = desk.server.objects[MODELS, "team-a", "a"]
            desk.store.put(
                desk.server.put(MODELS, {**item, "status": {**item["status"], "shape": "mine", "extra": 1}})
            )
            await asyncio.sleep(1)
            assert desk.status("a")["shape"] == "1xTP1"
            assert desk.status("a")["extra"] == 1
            assert len(desk.server.writes) == 2
            desk.store.put(desk.server.put(MODELS, {**item, "status": {**desk.status("a"), "more": 1}}))
            await asyncio.sleep(1)
            assert len(desk.server.writes) == 2

    run_in_virtual_time(story())


def test_an_object_of_the_same_name_made_anew_gets_its_status() -> None:
    async def story() -> None:
        desk = Desk("a")
        async with desk.open():
            desk.write(a=make_status())
            await asyncio.sleep(1)
            del desk.server.objects[MODELS, "team-a", "a"]
            desk.store.put(put_model(desk.server, "a"))
            await asyncio.sleep(1)
            assert desk.status("a")["shape"] == "1xTP1"

    run_in_virtual_time(story())


def test_losing_the_lease_ends_the_writer_with_what_was_not_written() -> None:
    class Shut:
        def check(self) -> None:
            raise NotLeaderError("not the leader")

    async def story() -> None:
        desk = Desk("a")
        desk.writer = StatusWriter(desk.server.client().fenced(Shut()), desk.store)
        desk.write(a=make_status())
        with pytest.raises(ExceptionGroup) as raised:
            await desk.writer.run()
        assert raised.group_contains(NotLeaderError)
        assert desk.server.writes == []

    run_in_virtual_time(story())


@pytest.mark.parametrize(
    ("observed", "wanted", "holds"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({}, {"a": 1}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"c": [{"type": "X", "status": "True"}]}, {"c": [{"type": "X", "status": "True"}]}, True),
        ({"c": [{"type": "Y"}, {"type": "X", "s": 1}]}, {"c": [{"type": "X", "s": 1}]}, True),
        ({"c": [{"type": "X", "s": 0}]}, {"c": [{"type": "X", "s": 1}]}, False),
        ({"c": "none"}, {"c": [{"type": "X"}]}, False),
        ("text", {"a": 1}, False),
        ({"a": []}, {"a": []}, True),
        ({}, {"a": []}, False),
    ],
)
def test_a_status_says_what_is_wanted_when_it_holds_all_of_it(
    *, observed: Any, wanted: Any, holds: bool
) -> None:
    assert says(observed, wanted) is holds
