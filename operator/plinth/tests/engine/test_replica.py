from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from pydantic import SecretStr

from plinth.domain.fleet import SeenDevice
from plinth.engine.gate import Gate
from plinth.engine.replica import Replica
from plinth.engine.seam import EngineError, LocalModel, Progress, SourceError
from plinth.tests.domain.builders import make_figures
from plinth.tests.engine.fake_engine import MODEL, FakeEngine
from plinth.tests.engine.serving import PREFIX, SECRET, Served, http_server, make_spec, under_prefix


@asynccontextmanager
async def gate(
    engine: FakeEngine, source_error: str = "", faults: list[str] | None = None
) -> AsyncIterator[Served]:
    def fetch(_: SecretStr | None, __: Progress) -> LocalModel:
        if source_error:
            raise SourceError(source_error)
        return MODEL

    def find_fault(uuids: Iterable[str]) -> str:
        return next((uuid for uuid in uuids if uuid in (faults or ())), "")

    app = Gate(Replica(make_spec(), fetch, engine, find_fault=find_fault), SECRET)
    async with http_server(under_prefix(app)) as address, aiohttp.ClientSession() as session:
        session.headers["authorization"] = f"Bearer {SECRET}"
        yield Served(address + PREFIX, session)


@pytest.mark.asyncio
async def test_the_phases_follow_each_other_and_end_in_ready() -> None:
    engine = FakeEngine()
    engine.probed.clear()
    async with gate(engine) as served:
        state = await served.until("Loading")
        assert (state["bytes_done"], state["bytes_total"]) == (500, 1000)
        engine.loaded.set()
        await served.until("Probing")
        status, answer = await served.post("/v1/completions", {})
        assert (status, answer["error"]["code"]) == (503, "replica_not_ready")
        engine.tells = make_figures(kv_tokens=4096)
        engine.sees = (SeenDevice(node_id="n1", index=3, uuid="GPU-333"),)
        engine.probed.set()
        ready = await served.until("Ready")
        assert ready["figures"]["memory"]["kv_tokens"] == 4096
        assert ready["accelerators"] == [{"node_id": "n1", "index": 3, "uuid": "GPU-333"}]
        assert await served.post("/v1/completions", {}) == (200, engine.answer)
    assert engine.closed >= 1


@pytest.mark.asyncio
async def test_a_fault_of_its_accelerators_is_told_as_soon_as_their_driver_sees_it() -> None:
    engine, faults = FakeEngine(), list[str]()
    engine.sees = (SeenDevice(node_id="n1", index=3, uuid="GPU-333"),)
    engine.loaded.set()
    async with gate(engine, faults=faults) as served:
        assert (await served.until("Ready"))["fault"] == ""
        faults.append("GPU-333")
        assert (await served.until("Ready"))["fault"] == "GPU-333"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "credential", [None, "Bearer wrong", SECRET, f"bearer {SECRET}", f"Bearer {SECRET}x"]
)
async def test_without_the_secret_nothing_is_told(credential: str | None) -> None:
    engine = FakeEngine()
    engine.loaded.set()
    headers = {} if credential is None else {"authorization": credential}
    async with gate(engine) as served, aiohttp.ClientSession(headers=headers) as stranger:
        await served.until("Ready")
        for path in ("/plinth/state", "/v1/completions", "/anything"):
            async with stranger.get(served.base + path) as answer:
                error = (await answer.json())["error"]
                assert answer.status == 401
                assert (error["code"], error["type"]) == ("invalid_api_key", "invalid_request_error")


@pytest.mark.asyncio
async def test_a_source_that_fails_is_reported_in_its_words() -> None:
    async with gate(FakeEngine(), source_error="org/tiny is gated") as served:
        state = await served.until("Failed")
        assert state["message"] == "org/tiny is gated"
        status, answer = await served.post("/v1/completions", {})
        assert (status, answer["error"]["message"]) == (503, "This replica is failed: org/tiny is gated")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("error", "message"),
    [(EngineError("no room"), "no room"), (ZeroDivisionError("oops"), "ZeroDivisionError: oops")],
)
async def test_an_engine_that_cannot_load_is_reported_and_closed(error: Exception, message: str) -> None:
    engine = FakeEngine()
    engine.load_error = error
    engine.loaded.set()
    async with gate(engine) as served:
        assert (await served.until("Failed"))["message"] == message
        assert engine.closed == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"choices": []}, "was answered without a result"),
        ({"choices": "x"}, "was answered with something else"),
    ],
)
async def test_an_engine_that_answers_nothing_is_not_ready(answer: object, message: str) -> None:
    engine = FakeEngine()
    engine.answer = answer
    engine.loaded.set()
    async with gate(engine) as served:
        assert message in (await served.until("Failed"))["message"]


@pytest.mark.asyncio
async def test_a_dead_engine_takes_no_more_requests() -> None:
    engine = FakeEngine()
    engine.loaded.set()
    async with gate(engine) as served:
        await served.until("Ready")
        engine.died.set()
        assert (await served.until("Failed"))["message"] == "the engine died"
        assert (await served.post("/v1/completions", {}))[0] == 503
