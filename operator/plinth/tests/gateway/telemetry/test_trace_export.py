"""Spans on their way to a collector that may be slow, full, wrong or away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from plinth.gateway.server import trace_export
from plinth.gateway.server.trace_export import TraceExporter
from plinth.tests.gateway.harness import eventually, scenario
from plinth.tests.gateway.telemetry.records import TRACE, make_record


class Collector:
    """Answers each export with the next of `statuses`, then with 200; keeps what it took."""

    def __init__(self, *statuses: str) -> None:
        self.statuses = list(statuses)
        self.heads: list[str] = []
        self.taken: list[Any] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        body = json.loads(await reader.readexactly(size))
        status = self.statuses.pop(0) if self.statuses else "200 OK"
        if status.startswith("200"):
            self.taken += body["resourceSpans"][0]["scopeSpans"][0]["spans"]
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}".encode())
        writer.close()

    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/traces"


@asynccontextmanager
async def collecting(*statuses: str) -> AsyncIterator[Collector]:
    collector = Collector(*statuses)
    server = await asyncio.start_server(collector.serve, "127.0.0.1", 0)
    collector.port = server.sockets[0].getsockname()[1]
    try:
        yield collector
    finally:
        server.close()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_export, "_EVERY_SECONDS", 0.01)


def make_exporter(url: str) -> TraceExporter:
    return TraceExporter(url, {"service.name": "plinth-gateway"})


@scenario
async def test_spans_go_together_to_the_collectors_path() -> None:
    async with collecting() as collector:
        exporter = make_exporter(collector.url())
        for _ in range(5):
            exporter.add(make_record(trace=TRACE))
        await eventually(lambda: collector.taken)
        assert len(collector.taken) == 10
        assert len(collector.heads) == 1
        assert collector.heads[0].startswith("POST /v1/traces HTTP/1.1\r\n")
        assert "content-type: application/json\r\n" in collector.heads[0]
        exporter.add(make_record(trace=TRACE))
        await eventually(lambda: len(collector.taken) == 12)


@scenario
async def test_what_is_not_sampled_is_not_sent() -> None:
    exporter = make_exporter("http://127.0.0.1:9/v1/traces")
    exporter.add(make_record())
    exporter.add(make_record(trace=msgspec.structs.replace(TRACE, sampled=False)))
    assert exporter._task is None


@scenario
async def test_a_collector_that_is_busy_gets_the_same_again() -> None:
    async with collecting("503 Service Unavailable", "429 Too Many\r\nRetry-After: 0") as collector:
        exporter = make_exporter(collector.url())
        exporter.add(make_record(trace=TRACE))
        await eventually(lambda: collector.taken)
        assert (len(collector.heads), len(collector.taken), exporter.dropped) == (3, 2, 0)


@scenario
async def test_a_collector_that_refuses_does_not_get_the_same_again() -> None:
    async with collecting("400 Bad Request") as collector:
        exporter = make_exporter(collector.url())
        exporter.add(make_record(trace=TRACE))
        await eventually(lambda: exporter.dropped)
        exporter.add(make_record(trace=TRACE))
        await eventually(lambda: collector.taken)
        assert (len(collector.taken), exporter.dropped) == (2, 1)


@scenario
async def test_while_the_collector_is_away_spans_wait_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_export, "_MOST_BYTES", 10_000)
    exporter = make_exporter("http://127.0.0.1:9/v1/traces")
    for _ in range(100):
        exporter.add(make_record(trace=TRACE))
    assert exporter._bytes <= 10_000
    assert exporter.dropped + len(exporter._waiting) == 100
    await eventually(lambda: exporter._pause)
    await exporter.close()
    assert exporter.dropped == 100


@scenario
async def test_large_batches_are_cut_and_the_last_goes_out_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trace_export, "_BATCH_BYTES", 5_000)
    monkeypatch.setattr(trace_export, "_EVERY_SECONDS", 60.0)
    async with collecting() as collector:
        exporter = make_exporter(collector.url())
        for _ in range(10):
            exporter.add(make_record(trace=TRACE))
        await asyncio.sleep(0)
        await exporter.close()
        assert len(collector.taken) == 20
        assert 3 <= len(collector.heads) <= 10


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="must be the address of a collector"):
        make_exporter("collector:4317")
