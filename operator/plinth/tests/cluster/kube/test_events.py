"""Events in virtual time: told once, not too many, and never in anybody's way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from plinth.api.v1alpha1 import ResourceKey
from plinth.cluster.kube.errors import KubeAway
from plinth.cluster.kube.events import AGAIN_SECONDS, BURST, NOTE_BYTES, EventWriter, make_event
from plinth.desired.story import Note
from plinth.tests.cluster.kube.fake_api_server import FakeApiServer
from plinth.tests.cluster.kube.virtual_time import run_in_virtual_time, virtual_now

SMOL = ResourceKey("ModelDeployment", "team-a", "smol")
POOL = ResourceKey("GPUPool", "", "h200")


def make_note(message: str = "so it is", *, about: ResourceKey = SMOL, is_warning: bool = False) -> Note:
    return Note(about=about, reason="Serving", action="Judge", message=message, is_warning=is_warning)


def telling(story: Callable[[FakeApiServer, EventWriter], Awaitable[None]]) -> None:
    async def whole() -> None:
        server = FakeApiServer()
        writer = EventWriter(
            server.client(), identity="me", uid_of={SMOL: "uid-1", POOL: "uid-2"}.get, clock=virtual_now
        )
        task = asyncio.create_task(writer.run())
        try:
            await story(server, writer)
        finally:
            task.cancel()
            await asyncio.wait({task})

    run_in_virtual_time(whole())


def notes_at(server: FakeApiServer) -> list[str]:
    return [item["note"] for (collection, _, _), item in server.objects.items() if "events" in collection]


def test_an_event_names_its_object_and_says_who_did_what_and_why() -> None:
    event = make_event(make_note(is_warning=True), uid="uid-1", identity="me", now=0.25)
    assert event == {
        "metadata": {"namespace": "team-a", "generateName": "smol-"},
        "eventTime": "1970-01-01T00:00:00.250000Z",
        "reportingController": "plinth.dev/operator",
        "reportingInstance": "me",
        "action": "Judge",
        "reason": "Serving",
        "regarding": {
            "apiVersion": "plinth.dev/v1alpha1",
            "kind": "ModelDeployment",
            "namespace": "team-a",
            "name": "smol",
            "uid": "uid-1",
        },
        "note": "so it is",
        "type": "Warning",
    }


def test_an_event_about_a_pool_lives_in_the_default_namespace() -> None:
    event = make_event(make_note(about=POOL), uid="uid-2", identity="me", now=0)
    assert event["metadata"]["namespace"] == "default"
    assert "namespace" not in event["regarding"]


def test_a_long_note_is_cut_by_its_bytes() -> None:
    event = make_event(make_note("é" * 2000), uid="u", identity="me", now=0)
    assert len(event["note"].encode()) <= NOTE_BYTES
    assert event["note"].endswith("é…")


def test_the_same_is_told_again_only_after_a_while() -> None:
    async def story(server: FakeApiServer, writer: EventWriter) -> None:
        for _ in range(10):
            writer.tell([make_note()])
            await asyncio.sleep(1)
        assert len(notes_at(server)) == 1
        await asyncio.sleep(AGAIN_SECONDS)
        writer.tell([make_note()])
        await asyncio.sleep(1)
        assert len(notes_at(server)) == 2

    telling(story)


def test_beyond_the_rate_notes_are_dropped_and_later_ones_come_through() -> None:
    async def story(server: FakeApiServer, writer: EventWriter) -> None:
        writer.tell([make_note(str(number)) for number in range(5000)])
        await asyncio.sleep(30)
        assert len(notes_at(server)) == BURST
        writer.tell([make_note("later")])
        await asyncio.sleep(1)
        assert "later" in notes_at(server)

    telling(story)


def test_what_has_gone_is_not_told_of() -> None:
    async def story(server: FakeApiServer, writer: EventWriter) -> None:
        writer.tell([make_note(about=ResourceKey("ModelDeployment", "team-a", "gone"))])
        await asyncio.sleep(1)
        assert notes_at(server) == []

    telling(story)


def test_while_the_api_server_is_away_events_are_lost_and_nobody_waits() -> None:
    async def story(server: FakeApiServer, writer: EventWriter) -> None:
        async def away(_method: str, _path: str) -> None:
            raise KubeAway("away")

        server.before = away
        writer.tell([make_note("lost")])
        await asyncio.sleep(1)
        server.before = FakeApiServer().before
        writer.tell([make_note("told")])
        await asyncio.sleep(1)
        assert notes_at(server) == ["told"]

    telling(story)
