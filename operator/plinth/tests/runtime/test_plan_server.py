"""Plans over HTTP: the server and the client of it, on a port and on a socket."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from plinth.runtime.plan_client import PlanRefused, PlanUnavailable, ask_at, ask_on
from plinth.runtime.plan_server import MOST_BYTES, MOST_RESOURCES, PlanServer
from plinth.tests.controllers.test_what_if import live, make_asked, make_what_ifs
from plinth.tests.domain.builders import make_pool

MANIFEST = {
    "apiVersion": "plinth.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "other"},
    "spec": {"model": {"source": "hf://org/other"}},
}


@asynccontextmanager
async def serving(*, leads: bool = True) -> AsyncIterator[str]:
    """The address of a server that plans for a fleet with one accelerator free."""
    server = PlanServer(make_what_ifs(live() if leads else None))
    await server.start_on_port(0)
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.close()


async def post(address: str, body: bytes, content_type: str = "application/json") -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{address}/plan", data=io.BytesIO(body), headers={"Content-Type": content_type}
        ) as response,
    ):
        return response.status, await response.text()


async def test_the_client_gets_the_document_that_was_made_of_its_resources() -> None:
    async with serving() as address:
        document = await asyncio.to_thread(ask_at, address, [make_pool("b"), make_asked()], "b")
    assert [(each["name"], each["pool"]) for each in document["models"]] == [("other", "b")]


async def test_a_socket_is_asked_like_a_port(tmp_path: Path) -> None:
    server = PlanServer(make_what_ifs(live()))
    await server.start_on_socket(str(tmp_path / "plan.sock"))
    try:
        document = await asyncio.to_thread(ask_on, tmp_path / "plan.sock", [make_asked()], None)
    finally:
        await server.close()
    assert [each["action"] for each in document["changes"]] == ["Create"]


async def test_a_socket_that_a_killed_process_left_is_taken_over(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "plan.sock"))
    server = PlanServer(make_what_ifs(live()))
    await server.start_on_socket(str(tmp_path / "plan.sock"))
    await server.close()


async def test_what_the_fleet_does_not_plan_for_is_refused_in_its_words() -> None:
    async with serving() as address:
        with pytest.raises(PlanRefused, match="there is no GPUPool gone"):
            await asyncio.to_thread(ask_at, address, [make_asked()], "gone")


async def test_a_replica_that_does_not_lead_is_unavailable_and_so_is_nobody(tmp_path: Path) -> None:
    async with serving(leads=False) as address:
        with pytest.raises(PlanUnavailable, match="does not lead"):
            await asyncio.to_thread(ask_at, address, [make_asked()], None)
    with pytest.raises(PlanUnavailable):
        await asyncio.to_thread(ask_on, tmp_path / "none.sock", [make_asked()], None)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "Expecting property name"),
        (b"[]", "ask with {resources"),
        (b'{"resources": ["x"]}', "each of the resources must be an object"),
        (b'{"resources": [], "pool": 3}', "pool must be a name"),
        (json.dumps({"resources": [{}] * (MOST_RESOURCES + 1)}).encode(), "at most 1000 resources"),
        (json.dumps({"resources": [{**MANIFEST, "spec": {"pool": "b"}}]}).encode(), "spec.model"),
    ],
)
async def test_what_is_no_question_is_refused_with_the_reason(body: bytes, said: str) -> None:
    async with serving() as address:
        status, text = await post(address, body)
    assert status == 422
    assert said in json.loads(text)["error"]


async def test_a_page_in_a_browser_cannot_ask() -> None:
    async with serving() as address:
        status, _ = await post(address, b'{"resources": []}', "text/plain")
    assert status == 415


async def test_a_question_is_bounded() -> None:
    body: dict[str, Any] = {"resources": [], "pool": "x" * MOST_BYTES}
    async with serving() as address:
        status, _ = await post(address, json.dumps(body).encode())
    assert status == 413
