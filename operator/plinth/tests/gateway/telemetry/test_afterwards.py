"""Records become lines, spans and numbers; a reader that stops reading stops nothing."""

from __future__ import annotations

import asyncio
import json
import os
import time

import pytest

from plinth.gateway.server import log_lines
from plinth.gateway.server.afterwards import Afterwards
from plinth.gateway.server.log_lines import LineWriter
from plinth.gateway.server.trace_export import TraceExporter
from plinth.tests.gateway.harness import eventually, scenario
from plinth.tests.gateway.telemetry.records import TRACE, make_record


@scenario
async def test_each_request_is_a_line_in_order() -> None:
    reading, writing = os.pipe()
    afterwards = Afterwards(lines=LineWriter(writing))
    for number in range(100):
        afterwards.tell(make_record(request_id=f"req-{number}"))
    await afterwards.close()
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert [json.loads(line)["request_id"] for line in pipe] == [f"req-{number}" for number in range(100)]


@scenario
async def test_lines_come_soon_without_being_asked_for() -> None:
    reading, writing = os.pipe()
    writer = LineWriter(writing)
    writer.add(b"one\n")
    assert await asyncio.to_thread(os.read, reading, 100) == b"one\n"
    writer.add(b"two\n")
    assert await asyncio.to_thread(os.read, reading, 100) == b"two\n"
    writer.close()
    os.close(writing)
    os.close(reading)


@scenario
async def test_a_reader_that_stops_reading_costs_lines_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_lines, "_MOST_BYTES", 200_000)
    reading, writing = os.pipe()  # holds 64 KiB
    writer = LineWriter(writing)
    line = b"x" * 999 + b"\n"
    began = time.monotonic()
    for _ in range(500):
        writer.add(line)
    await asyncio.sleep(0.1)
    for _ in range(500):
        writer.add(line)
    assert time.monotonic() - began < 1.0
    assert 600 < writer.dropped < 900
    taken = bytearray()
    while len(taken) < (1000 - writer.dropped) * 1000:
        taken += await asyncio.to_thread(os.read, reading, 65536)
    writer.close()
    assert set(bytes(taken).split(b"\n")) == {b"x" * 999, b""}
    os.close(writing)
    os.close(reading)


@scenario
async def test_a_log_that_cannot_be_written_is_told_once_a_batch(caplog: pytest.LogCaptureFixture) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    writer = LineWriter(writing)
    writer.add(b"lost\n")
    await eventually(lambda: caplog.messages)
    assert "access log are lost" in caplog.messages[0]
    writer.close()
    os.close(writing)


@scenario
async def test_a_record_is_counted_and_traced_too() -> None:
    exporter = TraceExporter("http://127.0.0.1:9/v1/traces", {})
    afterwards = Afterwards(exporter=exporter)
    afterwards.tell(make_record(trace=TRACE))
    assert len(exporter._waiting) == 1
    assert any(family.samples for family in afterwards.families.families())
    await afterwards.close()
