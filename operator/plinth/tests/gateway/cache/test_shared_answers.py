"""A request that gets another's answer, as its client sees it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plinth.gateway.access.terms import Terms
from plinth.gateway.cache.flights import Flight, Flights
from plinth.gateway.limits.answers import Header
from plinth.gateway.options import Limits, Options
from plinth.gateway.protocol.errors import Refusal, no_table_yet, stream_broken
from plinth.gateway.protocol.request import Request
from plinth.gateway.protocol.response import ResponseReader
from plinth.gateway.server.answer import Attended
from plinth.gateway.server.core import Core
from plinth.gateway.server.ending import Spent
from plinth.gateway.server.shared_answer import SharedAnswer
from plinth.tests.gateway.harness import scenario

STREAM = ((b"content-type", b"text/event-stream"),)
DOCUMENT = ((b"content-type", b"application/json"),)


class Nobody:
    def report_now(self) -> None: ...

    def report_soon(self) -> None: ...


class Browser:
    """Reads the answer as a client does; may be slow."""

    def __init__(self) -> None:
        self.slow = False
        self.written = b""
        self.refusal: Refusal | None = None
        self.over = ""

    def attend(self, call: Attended) -> None: ...

    def write(self, data: bytes) -> None:
        assert not self.over
        self.written += data

    def is_slow(self) -> bool:
        return self.slow

    def answer_refusal(self, refusal: Refusal, headers: tuple[Header, ...] = (), body: bytes = b"") -> None:
        self.refusal = refusal
        self.over = "refused"

    def finish(self, *, keep_alive: bool) -> None:
        self.over = "kept alive" if keep_alive else "closed"

    def abort(self) -> None:
        self.over = "aborted"

    def answer(self) -> ResponseReader:
        reader = ResponseReader()
        reader.feed(self.written)
        return reader


class Table:
    """One flight, and those who sit at it."""

    def __init__(self) -> None:
        limits = Limits(stream_idle_seconds=5.0, queue_seconds=10.0)
        options = Options(host="", port=0, control=Path(), secret_file=Path(), limits=limits)
        self.core = Core(secret="s", options=options, news=Nobody())
        self.flights = Flights(answer_bytes=1000, most_bytes=10_000)
        self.flight = self.flights.lead(b"k", 2)
        self.led: list[Flight] = []
        self.ended: list[tuple[int, str, int, int]] = []
        """Statuses, what the cache did, and the tokens of the prompt and of the answer that it saved."""

    def end(self, status: int, cache: str, saved: Spent) -> None:
        self.ended.append((status, cache, saved.prompt, saved.output))

    def sit(self, *, chunked_ok: bool = True) -> tuple[SharedAnswer, Browser]:
        browser = Browser()
        request = Request(request_id=b"req-7")
        request.body, request.keep_alive, request.chunked_ok = b"x" * 50, True, chunked_ok
        model = SimpleNamespace(name="team/tiny")
        order: Any = SimpleNamespace(request=request, terms=Terms(), arrived=100.0, asked="tiny", model=model)
        shared = SharedAnswer(self.core, browser, order, rank=2, lead=self.led.append, ended=self.end)
        flight = self.flights.join(b"k", shared)
        assert flight is not None
        shared.listen(flight)
        shared.start()
        return shared, browser


def streaming() -> tuple[Table, SharedAnswer, Browser]:
    """One has got the first event of another's stream."""
    table = Table()
    shared, browser = table.sit()
    table.flight.begin(200, STREAM)
    table.flight.feed(b"data: 1\n\n")
    return table, shared, browser


@scenario
async def test_a_stream_reaches_each_client_live_in_frames_of_its_own() -> None:
    table = Table()
    _, early = table.sit()
    table.flight.begin(200, STREAM)
    table.flight.feed(b"data: 1\n\n")
    _, late = table.sit()
    _, old = table.sit(chunked_ok=False)
    assert b"data: 1\n\n" in early.written
    assert b"data: 1\n\n" in late.written
    table.flight.feed(b"data: 2\n\n")
    table.flight.end()
    for browser in (early, late):
        answer = browser.answer()
        assert answer.complete
        assert answer.take() == b"data: 1\n\ndata: 2\n\n"
        assert browser.over == "kept alive"
        assert (b"cache-status", b"plinth; fwd=miss; collapsed") in answer.headers
        assert b"x-request-id: req-7\r\n" in browser.written
    assert old.over == "closed"
    assert old.written.endswith(b"\r\n\r\ndata: 1\n\ndata: 2\n\n")
    assert table.ended == [(200, "fwd=miss; collapsed", 0, 0)] * 3
    assert table.flights.held == 0


@scenario
async def test_an_answer_that_is_complete_at_once_has_a_length() -> None:
    table = Table()
    _, browser = table.sit()
    browser.slow = True  # with the answer before this one: it says nothing about this one
    table.flight.deliver(200, DOCUMENT, b'{"a":1}', outcome="hit")
    assert b"content-length: 7\r\n" in browser.written
    assert b"cache-status: plinth; hit\r\n" in browser.written
    assert browser.answer().take() == b'{"a":1}'
    assert table.flights.held == 0


@scenario
async def test_a_refusal_reaches_all() -> None:
    table = Table()
    _, browser = table.sit()
    table.flight.fail(no_table_yet())
    assert browser.refusal == no_table_yet()
    assert table.ended == [(503, "", 0, 0)]


@scenario
async def test_a_broken_stream_ends_with_one_error_and_a_broken_document_with_its_connection() -> None:
    table, _, browser = streaming()
    table.flight.fail(stream_broken("gone"))
    assert browser.over == "closed"
    body = browser.answer().take()
    assert body.startswith(b'data: 1\n\ndata: {"error":')
    assert body.count(b"data:") == 2

    table = Table()
    _, browser = table.sit()
    table.flight.begin(200, DOCUMENT)
    table.flight.feed(b'{"a":')
    table.flight.fail(stream_broken("gone"))
    assert browser.over == "aborted"


@scenario
async def test_a_slow_client_gets_the_rest_when_it_has_caught_up() -> None:
    table, shared, browser = streaming()
    browser.slow = True
    table.flight.feed(b"data: 2\n\n")
    table.flight.end()
    assert b"data: 2" not in browser.written
    browser.slow = False
    shared.on_client_drained()
    assert browser.answer().take() == b"data: 1\n\ndata: 2\n\n"
    assert (browser.over, table.flights.held) == ("kept alive", 0)


@scenario
async def test_a_client_that_takes_nothing_for_too_long_is_let_go() -> None:
    table, shared, browser = streaming()
    shared.check(table.core.loop.time() + 1000)
    assert len(browser.over) == 0  # the flight is slow, not the client
    browser.slow = True
    shared.check(table.core.loop.time() + 1000)
    assert browser.over == "aborted"
    table.flight.feed(b"data: 2\n\n")


@scenario
async def test_a_client_that_lags_beyond_what_is_held_is_told() -> None:
    table, _, browser = streaming()
    browser.slow = True
    for _ in range(4):
        table.flight.feed(b"data: %s\n\n" % (b"x" * 300))
    assert browser.over == "closed"
    assert b"reads too slowly" in browser.written


@scenario
async def test_a_request_waits_for_another_only_as_long_as_it_may() -> None:
    table = Table()
    shared, browser = table.sit()
    shared.check(109.9)
    assert not browser.over
    shared.check(110.0)
    assert browser.refusal is not None
    assert browser.refusal.code == "no_replica_ready"
    table.flight.begin(200, STREAM)
    table.flight.feed(b"data: 1\n\n")
    assert browser.written == b""


@scenario
async def test_a_client_that_hangs_up_leaves_the_flight_to_the_others() -> None:
    table = Table()
    one, gone = table.sit()
    _, stays = table.sit()
    one.on_client_gone()
    one.on_client_gone()
    table.flight.begin(200, DOCUMENT)
    table.flight.feed(b"{}")
    table.flight.tokens = (7, 5)
    table.flight.end()
    assert gone.written == b""
    assert stays.answer().take() == b"{}"
    assert table.ended == [(499, "", 0, 0), (200, "fwd=miss; collapsed", 7, 5)]


@scenario
async def test_when_the_one_that_leads_gives_up_the_next_leads_unless_its_client_is_gone() -> None:
    table = Table()
    table.sit()
    table.flight.give_up()
    assert not table.led, "not within the other's end"
    await asyncio.sleep(0)
    assert table.led == [table.flight]
    assert table.ended == []

    table = Table()
    gone, _ = table.sit()
    table.sit()
    table.flight.give_up()
    gone.on_client_gone()
    for _ in range(2):
        await asyncio.sleep(0)
    assert table.led == [table.flight]
    assert table.ended == [(499, "", 0, 0)]


@pytest.mark.parametrize("slow", [False, True])
def test_followers_share_what_is_held(*, slow: bool) -> None:
    async def run() -> None:
        table = Table()
        for _ in range(20):
            _, browser = table.sit()
            browser.slow = slow
        table.flight.begin(200, STREAM)
        for _ in range(9):
            table.flight.feed(b"x" * 100)
        assert table.flights.held == 900

    asyncio.run(run())
