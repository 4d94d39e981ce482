"""What the client gets: one answer's head, framing and body, over however many replicas it comes from.

Everything a replica sends passes here on its way: events are counted, edited and translated, and handed as well to
those who ask the same and share the answer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from plinth.gateway.cache.answer import Answer, cache_status, is_worth_keeping
from plinth.gateway.limits.answers import Header
from plinth.gateway.protocol.errors import Refusal, error_event
from plinth.gateway.protocol.response import LAST_CHUNK, ResponseReader, chunk, response_head, whole_response
from plinth.gateway.protocol.sse import EventScan, Tail, Usage, usage_in
from plinth.gateway.resume.events import EventEditor, Splice
from plinth.gateway.resume.ledger import Ledger
from plinth.gateway.server.order import Order
from plinth.gateway.surface.chat import TranslationError, engine_refusal
from plinth.gateway.surface.exchange import StreamTranslation

if TYPE_CHECKING:
    from plinth.gateway.cache.flights import Flight
    from plinth.gateway.server.core import Core

_OK: Final = 200
_EVENTS_BESIDE_TOKENS: Final = 1  # `data: [DONE]`
_MOST_EDITED_BYTES: Final = 16 * 1024 * 1024
"""Of one event: vLLM's first names all tokens of the prompt."""
_KEPT_HEADERS: Final = frozenset({b"content-type"})


class Attended(Protocol):
    """Who answers on a connection now."""

    __slots__ = ()

    def on_client_gone(self) -> None:
        """The client hung up."""

    def on_client_drained(self) -> None:
        """The client takes bytes again."""

    def check(self, now: float) -> None:
        """Called twice a second, with the monotonic time."""


class Client(Protocol):
    """The connection that the request came on."""

    __slots__ = ()

    def attend(self, call: Attended) -> None:
        """This one answers from now on."""

    def write(self, data: bytes) -> None:
        """Passes bytes of the answer on."""

    def is_slow(self) -> bool:
        """Whether it has more bytes to send than it should hold."""

    def answer_refusal(self, refusal: Refusal, headers: tuple[Header, ...] = (), body: bytes = b"") -> None:
        """Answers with a refusal; the call is over. `body` says it in another shape than OpenAI's."""

    def finish(self, *, keep_alive: bool) -> None:
        """The answer is complete; the call is over."""

    def abort(self) -> None:
        """The answer cannot be completed; the call is over."""


class ClientAnswer:
    """One request's answer on its way to its client."""

    __slots__ = (
        "_chunked",
        "_client",
        "_core",
        "_flight",
        "_head",
        "_keep_alive",
        "_keeps",
        "_order",
        "_scan",
        "_splice",
        "_streamed",
        "_tail",
        "_translation",
        "_whole",
        "began",
        "cache",
        "first_token_at",
        "given",
        "last_token_at",
        "status",
    )

    def __init__(self, core: Core, client: Client, order: Order) -> None:
        self._core = core
        self._client = client
        self._order = order
        self.began = False
        """The client has got bytes."""
        self.status = 0
        self.given = 0
        """Pieces of the body that the client has got."""
        self.first_token_at: float | None = None
        self.last_token_at = 0.0
        self.cache = ""
        """What the response cache did; empty where it was not asked."""
        self._streamed = False
        self._whole = False
        """All of it has come."""
        self._chunked = False
        self._keep_alive = False
        self._head = b""
        """Goes out with the first bytes of the body."""
        self._scan: EventScan | None = None
        self._tail = Tail()
        """Of an answer that is no stream."""
        self._splice: Splice | None = None
        self._translation: StreamTranslation | None = None
        self._flight: Flight | None = None
        self._keeps = False

    # What is known of it.

    @property
    def ledger(self) -> Ledger | None:
        """What the client has of a stream that can go on elsewhere."""
        return self._splice.ledger if self._splice is not None else None

    @property
    def failure(self) -> str | None:
        """Why the replica's stream cannot be passed on any further, though it goes on."""
        return self._splice.failure if self._splice is not None else None

    def events(self) -> int:
        """Tokens so far, by events."""
        return self._scan.events if self._scan is not None else 0

    def usage(self) -> Usage:
        """Tokens by the engine's own word; where it says nothing, a stream's by its events."""
        ledger = self.ledger
        if ledger is not None and ledger.usage is not None:
            return Usage(ledger.usage.prompt_tokens, ledger.usage.completion_tokens)
        scan = self._scan
        if scan is None:
            return self._tail.usage()
        found = usage_in(scan.told)
        if found.completion_tokens is None:
            beside = _EVENTS_BESIDE_TOKENS if self._whole else 0
            return Usage(found.prompt_tokens, max(0, scan.events - beside))
        return found

    # Whose it is.

    def share(self, flight: Flight, *, cache: str, keeps: bool) -> None:
        """Others who ask the same get it too; kept for later where the client has nothing against that."""
        self._flight, self.cache, self._keeps = flight, cache, keeps

    def unshare(self) -> Flight | None:
        """Nobody gets it through this request any more; gives back what they listened to."""
        flight, self._flight = self._flight, None
        return flight

    def change_client(self, client: Client) -> None:
        """Its client has gone, and others still listen."""
        self._client = client

    @property
    def flight(self) -> Flight | None:
        """Through which others get it."""
        return self._flight

    # It comes.

    def begin(self, reader: ResponseReader, lines: bytes) -> None:
        """The replica's head is there, and its first event where it streams; header `lines` go with its own."""
        order = self._order
        self.began = True
        self.status = reader.status
        self._streamed = reader.event_stream
        length = reader.length
        if reader.event_stream:
            length = None  # events are edited, and one of our own may have to follow
            self._begin_stream()
        bodiless = reader.is_bodiless()
        self._chunked = length is None and order.request.chunked_ok and not bodiless
        # Without chunks and without a length only the connection's end ends the answer.
        framed = length is not None or self._chunked or bodiless
        self._keep_alive = framed and self._core.keeps_alive(order.request)
        self._share_head(reader)
        self._head = response_head(
            reader.status,
            [*reader.headers, cache_status(self.cache)] if self.cache else reader.headers,
            request_id=order.request.request_id,
            length=length,
            chunked=self._chunked,
            keep_alive=self._keep_alive,
            lines=lines,
        )

    def join(self, splice: Splice) -> None:
        """From now on another replica's bytes come."""
        self._splice = splice
        self._scan = EventScan(_MOST_EDITED_BYTES)

    def feed(self, data: bytes, now: float) -> None:
        """Bytes of the replica's body."""
        scan = self._scan
        if scan is None:
            self._tail.add(data)
        else:
            data = self._take_events(scan, data, now)
        self.write(data)

    def write(self, data: bytes) -> None:
        """Bytes as the client reads them, framed and passed on."""
        if not data:
            return
        self.given += 1
        if self._flight is not None:
            self._flight.feed(data)
        if self._chunked:
            data = chunk(data)
        if self._head:  # one call into the kernel instead of two
            data, self._head = self._head + data, b""
        self._client.write(data)

    def flush(self) -> None:
        """A head whose body has not begun to come."""
        if self._head:
            head, self._head = self._head, b""
            self._client.write(head)

    def is_slow(self) -> bool:
        """Whether the client takes its bytes more slowly than they come."""
        return self._client.is_slow()

    # It ends.

    def complete(self) -> None:
        """The replica's answer ended in peace."""
        self._whole = True
        if self._scan is not None:
            rest = self._scan.flush()
            if rest:
                self.write(self._translate(self._edit(rest if self._splice is None else rest + b"\n\n")))
        if self._translation is not None:
            self.write(self._translation.end())
        self.flush()
        if self._chunked:
            self._client.write(LAST_CHUNK)
        self._land()
        self._client.finish(keep_alive=self._keep_alive)

    def give_whole(self, reader: ResponseReader, lines: bytes) -> None:
        """A whole answer in another dialect than the replica's."""
        order, body = self._order, reader.take()
        exchange = order.exchange
        assert exchange is not None  # noqa: S101 - callers look
        self._tail.add(body)
        status = reader.status
        try:
            if status == _OK:
                body = exchange.answer(body)
            else:
                body = order.refusal_body(engine_refusal(status, body))
        except TranslationError as error:
            status, body = 502, order.refusal_body(Refusal(502, "invalid_replica_answer", str(error)))
        self.began = True
        self.status = status
        self._keep_alive = self._core.keeps_alive(order.request)
        kind = (b"content-type", b"application/json")
        self._client.write(
            whole_response(
                status,
                [kind],
                body,
                request_id=order.request.request_id,
                keep_alive=self._keep_alive,
                lines=lines,
            )
        )
        self._client.finish(keep_alive=self._keep_alive)

    def break_off(self, refusal: Refusal) -> None:
        """The answer has begun and will not be completed: a stream ends with an event that says so."""
        self.flush()
        if self._flight is not None:
            self._flight.fail(refusal)
        if self._scan is None:
            self._client.abort()
            return
        event = error_event(refusal) if self._translation is None else self._translation.fail(refusal)
        self._client.write(chunk(event) + LAST_CHUNK if self._chunked else event)
        self._client.finish(keep_alive=False)

    # Steps.

    def _take_events(self, scan: EventScan, data: bytes, now: float) -> bytes:
        splice = self._splice
        known = splice.feed_known(data) if splice is not None and scan.is_between_events() else None
        if known is not None:
            scan.events += 1
        else:
            data = scan.feed(data)
            if not data:
                return data
            known = self._edit(data)
        self.last_token_at = now
        if self.first_token_at is None:
            self.first_token_at = now
        return self._translate(known)

    def _translate(self, data: bytes) -> bytes:
        """Events in the dialect of the client."""
        return data if self._translation is None else self._translation.feed(data)

    def _edit(self, data: bytes) -> bytes:
        """Whole events without what only the gateway asked for."""
        return data if self._splice is None else self._splice.feed(data)

    def _begin_stream(self) -> None:
        order = self._order
        prepared = order.prepared
        if self.status == _OK and prepared is not None:
            self._splice = EventEditor(
                hides_ids=prepared.hides_ids,
                hides_usage=prepared.hides_usage,
                records=prepared.resumes,
            )
            self._scan = EventScan(_MOST_EDITED_BYTES)
        else:
            self._scan = EventScan()
        if order.exchange is not None:
            self._translation = order.exchange.stream()

    def _share_head(self, reader: ResponseReader) -> None:
        if self._flight is None:
            return
        if reader.status == _OK:
            self._flight.begin(
                reader.status, tuple(item for item in reader.headers if item[0] in _KEPT_HEADERS)
            )
        else:
            flight, self._flight = self._flight, None
            flight.give_up()

    def _land(self) -> None:
        """All of the answer is out: whoever shares it has it too, and it is kept where it deserves that."""
        flight = self._flight
        if flight is None:
            return
        headers, usage = flight.headers, self.usage()
        flight.tokens = (usage.prompt_tokens or 0, usage.completion_tokens or 0)
        body = flight.end()
        order, cache = self._order, self._core.cache
        generates = order.endpoint.task == "Generate"
        if cache is None or body is None or not self._keeps:
            return
        if is_worth_keeping(self.status, body, event_stream=self._streamed, generates=generates):
            kept = Answer(headers, body, *flight.tokens)
            cache.keep(flight.key, kept, order.terms.cache_seconds, time.monotonic())
