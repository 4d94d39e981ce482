"""One client's connection: bytes to requests, one request after the other, answers back."""

from __future__ import annotations

import asyncio
from enum import Enum
from functools import partial
from time import monotonic
from typing import Final

from plinth.gateway.limits.answers import Header
from plinth.gateway.protocol.errors import Refusal, bodies_exhausted, error_body, error_headers, too_slow
from plinth.gateway.protocol.request import Request, RequestLimits, RequestReader
from plinth.gateway.protocol.response import CONTINUE, whole_response
from plinth.gateway.server.answer import Attended, Client
from plinth.gateway.server.call import Call
from plinth.gateway.server.core import Core
from plinth.gateway.server.ending import tell_refused
from plinth.gateway.server.local import Local
from plinth.gateway.server.mirror import mirror
from plinth.gateway.server.order import Order
from plinth.gateway.server.reception import receive, refusal_body
from plinth.gateway.server.scrape import Scrape

LINGER_SECONDS: Final = 2.0
"""After a refusal that leaves the client's bytes unread: closing at once would make the kernel reset the
connection, and the client might never see the refusal."""
MOST_PIPELINED: Final = 8
MOST_AT_ONCE: Final = 16
"""Requests of one connection that are answered in one turn of the loop: the others' turn comes between."""


class Stage(Enum):
    """What the connection waits for; each has its time limit."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"
    LINGER = "linger"


class ClientConnection(asyncio.Protocol, Client):
    """Answers in the order of the requests; while one is under way, those pipelined after it wait."""

    __slots__ = (
        "_body_held",
        "_call",
        "_core",
        "_paused",
        "_peer",
        "_reader",
        "_request",
        "_serving",
        "_since",
        "_slow",
        "_stage",
        "_transport",
    )

    def __init__(self, core: Core) -> None:
        self._core = core
        self._reader = RequestReader(RequestLimits(head=core.limits.head_bytes, body=core.limits.body_bytes))
        self._transport: asyncio.Transport | None = None
        self._peer = ""
        self._call: Attended | None = None
        self._request: Request | None = None
        self._slow = False
        self._paused = False
        """No bytes are read for now."""
        self._serving = False
        self._body_held = 0
        self._stage = Stage.HEAD
        self._since = monotonic()

    def is_busy(self) -> bool:
        """Whether a request is in hand, or part of one."""
        return self._call is not None or self._reader.reading_body or bool(self._reader.requests)

    # The loop calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = transport  # type: ignore[assignment] # a stream socket's is a Transport
        core = self._core
        if len(core.connections) >= core.limits.connections:
            transport.abort()  # type: ignore[attr-defined] # as above
            return
        self._transport.set_write_buffer_limits(high=core.limits.client_buffer_bytes)  # type: ignore[union-attr]
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else ""
        core.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._stage is Stage.LINGER:
            return
        self._core.clock.ready_at()
        reader = self._reader
        reader.feed(data)
        if not self._has_one_to_serve():
            self._count_body()
        self._go_on()

    def eof_received(self) -> bool:
        """The other side sends no more."""
        return False  # a client that ends its half has hung up: its engine must stop at once

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - gone is gone
        """The connection is gone."""
        self._transport = None
        self._core.connections.discard(self)
        self._core.hold_body(-self._body_held)
        self._body_held = 0
        self._reader.requests.clear()
        call, self._call = self._call, None
        if call is not None:
            call.on_client_gone()

    def pause_writing(self) -> None:
        """The client takes bytes more slowly than they come."""
        self._slow = True

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._slow = False
        if self._call is not None:
            self._call.on_client_drained()
        elif self._transport is not None and self._stage is not Stage.LINGER:
            self._go_on()

    # The call in hand calls these.

    def attend(self, call: Attended) -> None:
        """This one answers from now on."""
        self._call = call

    def write(self, data: bytes) -> None:
        """Passes bytes of the answer on."""
        if self._transport is not None:
            self._transport.write(data)

    def is_slow(self) -> bool:
        """Whether more is waiting for the client than should be held."""
        return self._slow

    def answer_refusal(self, refusal: Refusal, headers: tuple[Header, ...] = (), body: bytes = b"") -> None:
        """Answers with a refusal; the call is over. `body` says it in another shape than OpenAI's."""
        self._call = None
        self._send_refusal(refusal, headers, body)
        self._after_answer(keep_alive=self._keeps_alive() and not refusal.closes)

    def finish(self, *, keep_alive: bool) -> None:
        """The answer is complete."""
        self._call = None
        self._after_answer(keep_alive=keep_alive)

    def abort(self) -> None:
        """The answer cannot be completed: closes at once."""
        self._call = None
        if self._transport is not None:
            self._transport.abort()

    # The process calls these.

    def check(self, now: float) -> None:
        """Ends what has taken too long; twice a second."""
        if self._call is not None:
            self._call.check(now)
            return
        limits, waited = self._core.limits, now - self._since
        if self._stage is Stage.IDLE and waited >= limits.keep_alive_seconds:
            self._close()
        elif self._stage is Stage.HEAD and waited >= limits.header_seconds:
            if self._reader.reading_head:
                self._refuse_connection(too_slow("the request's head", limits.header_seconds))
            else:
                self._close()
        elif self._stage is Stage.BODY and waited >= limits.body_seconds:
            self._refuse_connection(too_slow("the request's body", limits.body_seconds))
        elif self._stage is Stage.LINGER and waited >= LINGER_SECONDS:
            self.abort()

    def close_when_idle(self) -> None:
        """The process leaves: closes at once unless an answer is under way."""
        if not self.is_busy():
            self._close()

    def kill(self) -> None:
        """The process leaves now."""
        if self._transport is not None:
            self._transport.abort()

    # Steps.

    def _go_on(self) -> None:
        """Serves what is complete, in order, then sees what the connection waits for."""
        if self._serving or self._stage is Stage.LINGER:
            return  # an answer given at once led back here, and the loop below goes on; or nothing more is answered
        self._serving = True
        try:
            open_still = self._serve_complete()
        finally:
            self._serving = False
        if open_still:
            self._await_next()

    def _serve_complete(self) -> bool:
        reader = self._reader
        served = 0
        while self._call is None and reader.requests and self._transport is not None and not self._slow:
            if served == MOST_AT_ONCE:
                break
            served += 1
            request = reader.requests.popleft()
            if self._body_held:
                self._count_body()
            self._serve(request)
            if self._transport is None or self._transport.is_closing():
                return False
        return self._transport is not None and not self._transport.is_closing()

    def _await_next(self) -> None:
        reader, transport = self._reader, self._transport
        if transport is None:
            return
        if self._call is not None:
            self._stage = Stage.ANSWER
            if len(reader.requests) >= MOST_PIPELINED:
                self._pause()  # until the answer is out, hanging up goes unseen: memory comes first
            return
        if self._slow:
            self._pause()  # who takes no answers gets no more of them
            return
        if reader.requests:
            self._pause()
            self._core.loop.call_soon(self._go_on)
            return
        self._unpause()
        if reader.refusal is not None:
            self._refuse_connection(reader.refusal)
        elif reader.reading_body:
            self._enter(Stage.BODY)
            if reader.wants_continue:
                reader.wants_continue = False
                transport.write(CONTINUE)
        else:
            self._enter(Stage.HEAD if reader.reading_head else Stage.IDLE)

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _unpause(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def _serve(self, request: Request) -> None:
        self._request = request
        if not request.request_id:
            request.request_id = self._core.make_request_id()
        request.peer = self._peer
        outcome = receive(self._core, request)
        if isinstance(outcome, Order):
            self._call = call = Call(self._core, self, outcome)
            call.start()
            mirror(self._core, outcome)
        elif isinstance(outcome, Scrape):
            self._call = outcome
            self._core.spawn(outcome.run(partial(self._answer_after_all, request)))
        elif isinstance(outcome, Refusal):
            tell_refused(self._core, request, outcome)
            self._send_refusal(outcome, body=refusal_body(request, outcome))
            self._after_local(keep_alive=self._keeps_alive() and not outcome.closes)
        else:
            self._answer_locally(request, outcome)

    def _answer_after_all(self, request: Request, local: Local) -> None:
        self._call = None
        self._answer_locally(request, local)
        self._after_answer(keep_alive=self._keeps_alive())

    def _answer_locally(self, request: Request, local: Local) -> None:
        status, headers, body = local
        self.write(
            whole_response(
                status,
                headers,
                body,
                request_id=request.request_id,
                keep_alive=self._keeps_alive(),
                head_only=request.method == b"HEAD",
            )
        )
        self._after_local(keep_alive=self._keeps_alive())

    def _send_refusal(self, refusal: Refusal, headers: tuple[Header, ...] = (), body: bytes = b"") -> None:
        request = self._request
        self.write(
            whole_response(
                refusal.status,
                [*error_headers(refusal), *headers],
                body or error_body(refusal),
                request_id=request.request_id if request is not None else self._core.make_request_id(),
                keep_alive=self._keeps_alive() and not refusal.closes,
                head_only=request is not None and request.method == b"HEAD",
            )
        )

    def _keeps_alive(self) -> bool:
        return self._request is not None and self._core.keeps_alive(self._request)

    def _after_local(self, *, keep_alive: bool) -> None:
        if not keep_alive:
            self._close()

    def _after_answer(self, *, keep_alive: bool) -> None:
        if self._transport is None:
            return
        if not keep_alive:
            self._close()
            return
        self._unpause()
        self._stage = Stage.IDLE
        self._since = monotonic()
        reader = self._reader
        if reader.requests or reader.reading_head or reader.reading_body or reader.refusal is not None:
            self._go_on()

    def _refuse_connection(self, refusal: Refusal) -> None:
        """Says why nothing more is read, then waits a little for the client to read it."""
        self._request = None
        tell_refused(self._core, Request(request_id=self._core.make_request_id(), peer=self._peer), refusal)
        self._send_refusal(refusal)
        self._reader.refuse(refusal)
        self._count_body()
        self._enter(Stage.LINGER)
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()

    def _count_body(self) -> None:
        """Keeps the count of all bodies held; refuses what would exceed it, rather than wait.

        Waiting for room could last forever: unfinished bodies would hold all of it.
        """
        grew = self._recount_body()
        core, reader = self._core, self._reader
        if grew and core.body_bytes > core.limits.all_body_bytes and reader.refusal is None:
            reader.refuse(bodies_exhausted())
            reader.requests.clear()
            self._recount_body()

    def _has_one_to_serve(self) -> bool:
        """Whether all that is held is one request whose turn it is: its call counts it, if there is room for it."""
        core, reader = self._core, self._reader
        return (
            len(reader.requests) == 1
            and not (self._body_held or reader.body_bytes or self._slow)
            and self._call is None
            and core.body_bytes + len(reader.requests[0].body) <= core.limits.all_body_bytes
        )

    def _recount_body(self) -> bool:
        reader = self._reader
        if not (self._body_held or reader.body_bytes or reader.requests):
            return False
        held = reader.body_bytes if reader.refusal is None else 0
        for request in reader.requests:
            held += len(request.body)
        before, self._body_held = self._body_held, held
        self._core.hold_body(held - before)
        return held > before

    def _enter(self, stage: Stage) -> None:
        if stage is not self._stage:
            self._stage = stage
            self._since = monotonic()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
