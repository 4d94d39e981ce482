"""One client request on its way through: held, sent to a replica, answered. The heart of the data path.

Until the client has got a byte, another replica may be tried without anybody noticing. After that there is never
a second answer: a broken stream of events ends with one error event, any other broken answer ends with its
connection, so that no client takes it for complete.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from plinth.gateway.protocol.errors import (
    Refusal,
    error_event,
    stream_broken,
    upstream_failed,
    upstream_invalid,
    upstream_silent,
)
from plinth.gateway.protocol.forward import upstream_head
from plinth.gateway.protocol.probe import estimate_prompt_tokens
from plinth.gateway.protocol.request import Request
from plinth.gateway.protocol.response import LAST_CHUNK, ResponseReader, chunk, response_head
from plinth.gateway.protocol.sse import EventScan, Tail, Usage
from plinth.gateway.routing.objectives import Outcome, time_per_output_token
from plinth.gateway.server.replica import Replica
from plinth.gateway.server.upstream import UpstreamConnection

if TYPE_CHECKING:
    from plinth.gateway.server.core import Core
    from plinth.gateway.server.fleet import Model

_OK = 200
_UNAUTHORIZED = 401
_NOT_READY = 503
_EVENTS_BESIDE_TOKENS = 1  # `data: [DONE]`


class Client(Protocol):
    """The connection that the request came on."""

    def write(self, data: bytes) -> None:
        """Passes bytes of the answer on."""

    def is_slow(self) -> bool:
        """Whether it has more bytes to send than it should hold."""

    def answer_refusal(self, refusal: Refusal) -> None:
        """Answers with a refusal; the call is over."""

    def finish(self, *, keep_alive: bool) -> None:
        """The answer is complete; the call is over."""

    def abort(self) -> None:
        """The answer cannot be completed; the call is over."""


class Call:
    """Created when a request is complete and its model known; ends in exactly one of `_end`'s outcomes."""

    __slots__ = (
        "_arrived",
        "_attempts",
        "_began",
        "_body_held",
        "_chunked",
        "_client",
        "_core",
        "_ended",
        "_endpoint",
        "_first_token_at",
        "_freely_retried",
        "_heard",
        "_held_since",
        "_keep_alive",
        "_last_token_at",
        "_model",
        "_pending_tokens",
        "_replica",
        "_request",
        "_scan",
        "_sent",
        "_status",
        "_tail",
        "_upstream",
        "_waited",
        "number",
        "tried",
    )

    def __init__(
        self, core: Core, client: Client, request: Request, *, model: Model, endpoint: str, batch_began: float
    ) -> None:
        self._core = core
        self._client = client
        self._request = request
        self._model = model
        self._endpoint = endpoint
        self._arrived = batch_began
        self._pending_tokens = estimate_prompt_tokens(request.body)
        self._body_held = len(request.body)
        self._attempts = 0
        self._freely_retried = False
        self._replica: Replica | None = None
        self._upstream: UpstreamConnection | None = None
        self._sent = False
        """The request's bytes are on their way to the replica."""
        self._began = False
        """The client has got bytes."""
        self._ended = False
        self._status = 0
        self._held_since: float | None = None
        self._waited = 0.0
        """Seconds in the queue and for connections: not the gateway's own work."""
        self._heard = 0.0
        self._first_token_at: float | None = None
        self._last_token_at = 0.0
        self._chunked = False
        self._keep_alive = False
        self._scan: EventScan | None = None
        self._tail: Tail | None = None
        self.number = core.next_number()
        self.tried: set[str] = set()

    def start(self) -> None:
        """Looks for a replica; may be held."""
        self._model.totals.arrivals += 1
        self._core.hold_body(self._body_held)
        self._held_since = time.perf_counter()
        self._core.fleet.submit(self._model, self)

    # The fleet calls these.

    def assign(self, replica: Replica) -> None:
        """It is the turn of this request at this replica."""
        self._replica = replica
        self._attempts += 1
        replica.standing.pending_tokens += self._pending_tokens
        now = time.perf_counter()
        if self._held_since is not None:
            held = now - self._held_since
            self._waited += held
            self._core.metrics.held.observe(self._model.name, held)
        connection = replica.pool.take()
        if connection is not None:
            self._send(connection)
        else:
            self._held_since = now
            self._core.spawn(self._connect(replica))

    def refuse(self, refusal: Refusal) -> None:
        """Ends without an answer of a replica."""
        if not self._ended:
            self._end(failed=True, status=refusal.status)
            self._client.answer_refusal(refusal)

    def tokens_so_far(self) -> int:
        """Events of the unfinished stream, for the live count."""
        return self._scan.events if self._scan is not None else 0

    # The client's connection calls these.

    def on_client_gone(self) -> None:
        """The client hung up: the engine's work ends now."""
        if self._ended:
            return
        self._core.metrics.disconnects.add((self._model.name,))
        self._core.fleet.withdraw(self._model, self)
        self._drop_upstream()
        self._count_part()
        self._end(failed=True, status=499)

    def on_client_drained(self) -> None:
        """The client takes bytes again."""
        self._heard = time.perf_counter()
        if self._upstream is not None:
            self._upstream.resume()

    def check(self, now: float) -> None:
        """Called twice a second: ends what has been silent too long. `now` is of perf_counter."""
        if not self._sent or self._ended:
            return
        limits = self._core.limits
        silence = now - self._heard
        if not self._began and silence >= limits.first_byte_seconds:
            self._drop_upstream()
            self.refuse(upstream_silent(limits.first_byte_seconds))
        elif self._began and silence >= limits.stream_idle_seconds:
            self._drop_upstream()
            self._break_off(f"nothing for {limits.stream_idle_seconds:g} s")

    # The replica and its connection call these.

    def on_replica_dead(self, detail: str, *, silent: bool) -> None:
        """Goes elsewhere, unless the answer has begun."""
        if self._ended:
            return
        if not self._began:
            self._drop_upstream()
            self._try_elsewhere(detail, reason="replica_dead")
        elif silent:
            self._drop_upstream()
            self._break_off(detail)

    def on_lost(self, detail: str, *, stale: bool) -> None:
        """The connection broke before the answer was complete."""
        self._upstream = None
        if self._ended:
            return
        replica = self._replica
        if self._began:
            if replica is not None:
                replica.doubt()
            self._break_off(detail)
        elif stale and not self._freely_retried and replica is not None:
            self._freely_retried = True
            replica.pool.close_idle()
            self._core.metrics.retries.add((self._model.name, "stale_connection"))
            self._sent = False
            self._held_since = time.perf_counter()
            self._core.spawn(self._connect(replica))
        else:
            if replica is not None:
                replica.doubt()
            self._try_elsewhere(detail, reason="connection_lost")

    def on_answer(self, connection: UpstreamConnection) -> None:
        """Passes on what has come of the answer."""
        reader = connection.reader
        if not reader.head_complete:
            return
        self._heard = now = time.perf_counter()
        head = b""
        if not self._began:
            if reader.event_stream and not reader.parts and not reader.complete:
                return  # until the first event another replica could still take over
            head = self._begin_answer(reader)
            if not head:
                return
        out = head + self._next_bytes(reader, now)
        if out:
            self._client.write(out)
        if reader.complete:
            self._complete(connection)
        elif self._client.is_slow():
            connection.pause()

    # Steps.

    async def _connect(self, replica: Replica) -> None:
        try:
            connection = await replica.pool.connect(self._core.limits.connect_seconds)
        except OSError as error:
            if self._replica is replica and not self._ended:
                replica.doubt()
                self._try_elsewhere(str(error) or "no reply to a connection", reason="connect_failed")
            return
        if self._replica is not replica or self._ended or self._sent:
            replica.pool.keep(connection)  # the request is elsewhere by now
            return
        if self._held_since is not None:
            self._waited += time.perf_counter() - self._held_since
        self._send(connection)

    def _send(self, connection: UpstreamConnection) -> None:
        assert self._replica is not None  # noqa: S101 - a connection belongs to the replica assigned
        self._upstream = connection
        self._sent = True
        self._held_since = None
        self._heard = now = time.perf_counter()
        head = upstream_head(self._replica.prefix, self._request, self._request.request_id)
        self._core.metrics.overhead.observe(self._model.name, max(0.0, now - self._arrived - self._waited))
        connection.send(self, head, self._request.body)

    def _begin_answer(self, reader: ResponseReader) -> bytes:
        """The head for the client; empty when the replica's answer is not the one that the client gets."""
        if reader.status == _NOT_READY:
            self._drop_upstream()
            if self._replica is not None:
                self._replica.cool_down()
            self._try_elsewhere("the replica says that it is not ready", reason="not_ready")
            return b""
        if reader.status == _UNAUTHORIZED or not reader.has_known_end():
            self._drop_upstream()
            detail = (
                "it refused the gateway's secret" if reader.status == _UNAUTHORIZED else "it has no known end"
            )
            self.refuse(upstream_invalid(f"the replica's answer cannot be passed on: {detail}"))
            return b""
        self._began = True
        self._status = reader.status
        self._settle_pending()
        length = reader.length
        if reader.event_stream:
            self._scan = EventScan()
            length = None  # an event of our own may have to follow
        else:
            self._tail = Tail()
        bodiless = reader.is_bodiless()
        self._chunked = length is None and self._request.chunked_ok and not bodiless
        # Without chunks and without a length only the connection's end ends the answer.
        framed = length is not None or self._chunked or bodiless
        self._keep_alive = framed and self._core.keeps_alive(self._request)
        return response_head(
            reader.status,
            reader.headers,
            request_id=self._request.request_id,
            length=length,
            chunked=self._chunked,
            keep_alive=self._keep_alive,
        )

    def _next_bytes(self, reader: ResponseReader, now: float) -> bytes:
        data = reader.take() if reader.parts else b""
        if data:
            data = self._scan_body(data, now)
        if not reader.complete:
            return chunk(data) if self._chunked else data
        if self._scan is not None:
            data += self._scan.flush()
        return chunk(data) + LAST_CHUNK if self._chunked else data

    def _scan_body(self, data: bytes, now: float) -> bytes:
        """What may be passed on. A stream's first event counts as its first token: engines send it with that."""
        scan = self._scan
        if scan is None:
            if self._tail is not None:
                self._tail.add(data)
            return data
        data = scan.feed(data)
        if data:
            self._last_token_at = now
            if self._first_token_at is None:
                self._first_token_at = now
                self._core.metrics.ttft.observe(self._model.name, now - self._arrived)
        return data

    def _complete(self, connection: UpstreamConnection) -> None:
        self._upstream = None
        connection.release()
        self._count_outcome()
        self._end(failed=self._status >= 500, status=self._status)  # noqa: PLR2004 - server errors
        self._client.finish(keep_alive=self._keep_alive)

    def _break_off(self, detail: str) -> None:
        """The answer has begun and will not be completed."""
        self._core.metrics.broken.add((self._model.name,))
        self._count_part()
        self._end(failed=True, status=self._status)
        if self._scan is not None:
            event = error_event(stream_broken(detail))
            self._client.write(chunk(event) + LAST_CHUNK if self._chunked else event)
            self._client.finish(keep_alive=False)
        else:
            self._client.abort()

    def _try_elsewhere(self, detail: str, *, reason: str) -> None:
        self._leave_replica(tried=True)
        if self._attempts >= self._core.limits.attempts:
            self.refuse(upstream_failed(self._model.name, self._attempts, detail))
            return
        self._core.metrics.retries.add((self._model.name, reason))
        self._sent = False
        self._held_since = time.perf_counter()
        self._core.fleet.submit(self._model, self)

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()

    def _leave_replica(self, *, tried: bool) -> None:
        replica, self._replica = self._replica, None
        if replica is None:
            return
        if not self._began:
            replica.standing.pending_tokens -= self._pending_tokens
        if tried:
            self.tried.add(replica.route.slot)
        self._core.fleet.release(self._model, replica, self)

    def _settle_pending(self) -> None:
        """The first byte is out: the prompt has been read, the body is needed no more."""
        if self._replica is not None:
            self._replica.standing.pending_tokens -= self._pending_tokens
        self._release_body()

    def _release_body(self) -> None:
        self._core.hold_body(-self._body_held)
        self._body_held = 0
        self._request.body = b""

    def _end(self, *, failed: bool, status: int) -> None:
        self._ended = True
        self._leave_replica(tried=False)
        self._release_body()
        totals = self._model.totals
        if failed:
            totals.failed += 1
        else:
            totals.completed += 1
        metrics = self._core.metrics
        metrics.requests.add((self._model.name, self._endpoint, str(status)))
        metrics.duration.observe(self._model.name, time.perf_counter() - self._arrived)
        self._core.fleet.mark_changed()

    def _count_part(self) -> None:
        """A stream that ends early: its events were tokens all the same."""
        tokens = self.tokens_so_far()
        self._model.totals.output_tokens += tokens
        if tokens:
            self._core.metrics.output_tokens.add((self._model.name,), tokens)

    def _count_outcome(self) -> None:
        """Tokens, time for each, objectives: from `usage`, else a stream's events and the body's size."""
        if self._status != _OK:
            return
        tail = self._scan.tail if self._scan is not None else self._tail
        usage = (tail.usage() if tail is not None else None) or Usage(None, None)
        guess = max(0, self._scan.events - _EVENTS_BESIDE_TOKENS) if self._scan is not None else 0
        output = guess if usage.completion_tokens is None else usage.completion_tokens
        prompt = self._pending_tokens if usage.prompt_tokens is None else usage.prompt_tokens
        model, metrics = self._model, self._core.metrics
        model.totals.output_tokens += output
        metrics.output_tokens.add((model.name,), output)
        metrics.prompt_tokens.add((model.name,), prompt)
        if self._first_token_at is None:
            return
        tpot = time_per_output_token(self._first_token_at, self._last_token_at, output)
        if tpot is not None:
            metrics.tpot.observe(model.name, tpot)
        if model.route.objectives is not None:
            ttft = self._first_token_at - self._arrived
            outcome = Outcome(
                prompt_tokens=prompt, output_tokens=output, ttft_seconds=ttft, tpot_seconds=tpot
            )
            model.totals.objectives.count(model.route.objectives, outcome)
