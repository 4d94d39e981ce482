"""The warm copy of a kind's objects, in virtual time, through cuts, forgotten versions and an absent API server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from plinth.cluster.kube.errors import KubeAway
from plinth.cluster.kube.kinds import POD
from plinth.cluster.kube.reflector import Reflector
from plinth.tests.cluster.kube.fake_api_server import FakeApiServer, no_delay
from plinth.tests.cluster.kube.virtual_time import run_in_virtual_time

PODS = "/api/v1/pods"


def make_pod(name: str, *, namespace: str = "a", node: str = "") -> dict[str, Any]:
    return {"metadata": {"namespace": namespace, "name": name}, "spec": {"nodeName": node}}


class Follower:
    def __init__(self, server: FakeApiServer, namespace: str = "") -> None:
        self.changes = 0
        self.reflector = Reflector(server.client(), POD, namespace=namespace, on_change=self.changed)

    def changed(self) -> None:
        self.changes += 1

    @property
    def names(self) -> set[str]:
        return {name for _, name in self.reflector.items}


def follow(story: Callable[[FakeApiServer, Follower], Awaitable[None]], namespace: str = "") -> None:
    async def whole() -> None:
        server = FakeApiServer()
        server.put(PODS, make_pod("one"))
        server.put(PODS, make_pod("elsewhere", namespace="b"))
        follower = Follower(server, namespace)
        follower.reflector.start()
        try:
            await story(server, follower)
        finally:
            await follower.reflector.close()

    run_in_virtual_time(whole())


async def away(_method: str, _path: str) -> None:
    raise KubeAway("away")


def test_what_is_there_is_listed_and_what_changes_is_followed() -> None:
    async def story(server: FakeApiServer, follower: Follower) -> None:
        assert not follower.reflector.synced
        await follower.reflector.wait_synced()
        assert follower.names == {"one"}
        server.put(PODS, make_pod("two"))
        server.put(PODS, make_pod("one", node="n"))
        await asyncio.sleep(1)
        assert follower.reflector.items["a", "one"]["spec"]["nodeName"] == "n"
        await server.client().delete(POD, "a", "two")
        await asyncio.sleep(1)
        assert follower.names == {"one"}
        assert follower.changes == 4

    follow(story, namespace="a")


def test_while_the_api_server_is_away_the_last_objects_stay_and_afterwards_it_goes_on_where_it_was() -> None:
    async def story(server: FakeApiServer, follower: Follower) -> None:
        await follower.reflector.wait_synced()
        server.before = away
        server.put(PODS, make_pod("two"))
        await asyncio.sleep(120)
        assert follower.names >= {"one", "elsewhere"}
        server.before = no_delay
        await asyncio.sleep(10)
        assert follower.names == {"one", "two", "elsewhere"}

    follow(story)


def test_a_version_that_is_forgotten_is_listed_anew_and_what_has_gone_meanwhile_goes() -> None:
    async def story(server: FakeApiServer, follower: Follower) -> None:
        await follower.reflector.wait_synced()
        server.before = away
        server.put(PODS, make_pod("two"))
        del server.objects[PODS, "b", "elsewhere"]
        await asyncio.sleep(10)
        server.put(PODS, make_pod("three"))
        server.forget_history()
        server.before = no_delay
        await asyncio.sleep(10)
        assert follower.names == {"one", "two", "three"}

    follow(story)


def test_it_begins_when_the_api_server_comes() -> None:
    async def story(server: FakeApiServer, follower: Follower) -> None:
        server.before = away
        await asyncio.sleep(300)
        assert not follower.reflector.synced
        server.before = no_delay
        await asyncio.sleep(10)
        assert follower.reflector.synced

    follow(story)
