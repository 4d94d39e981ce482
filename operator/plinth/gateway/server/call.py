"""One client request on its way through: let in, held, sent to a replica, answered. The heart of the data path.

Until the client has got a byte, another replica may be tried without anybody noticing. After that a stream of events
goes on at another replica from what the client has (`gateway.resume`); what cannot go on exactly ends with one error
event, and any other broken answer with its connection, so that no client takes it for complete.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from plinth.gateway.limits.admission import Reservation
from plinth.gateway.limits.answers import Denial, Header
from plinth.gateway.limits.sharing import Waiting
from plinth.gateway.protocol.errors import (
    Refusal,
    stream_broken,
    upstream_failed,
    upstream_invalid,
    upstream_silent,
)
from plinth.gateway.protocol.forward import upstream_head
from plinth.gateway.protocol.response import ResponseReader
from plinth.gateway.resume.continuation import Ask, Joined
from plinth.gateway.routing.placement import Placement
from plinth.gateway.server import cached
from plinth.gateway.server.answer import Client, ClientAnswer
from plinth.gateway.server.continuing import find_continuation
from plinth.gateway.server.ending import NOTHING, Ending, Spent, spent_on, tell
from plinth.gateway.server.model import Dispatchable
from plinth.gateway.server.nobody import Nobody
from plinth.gateway.server.order import Order
from plinth.gateway.server.replica import Replica
from plinth.gateway.server.upstream import Exchange, UpstreamConnection
from plinth.gateway.telemetry.families import REPEATED
from plinth.gateway.telemetry.record import Attempt
from plinth.gateway.waiting.queue import Rejection
from plinth.gateway.waiting.refusals import refusal as refusal_of
from plinth.gateway.waiting.ticket import Ticket

if TYPE_CHECKING:
    from plinth.gateway.resume.events import Splice
    from plinth.gateway.server.core import Core

_OK: Final = 200
_UNAUTHORIZED: Final = 401
_NOT_READY: Final = 503
_CLIENT_GONE: Final = 499
_SERVER_ERROR: Final = 500
QUESTION_SECONDS: Final = 10.0
"""For each answer that is needed before a stream can go on: where many streams move at once they wait for each other."""


class Call(Exchange, Dispatchable, cached.Asker):
    """Created when a request is complete and its model known; ends once, in `_end`."""

    __slots__ = (
        "_answer",
        "_attempts",
        "_began_at",
        "_body_held",
        "_charged",
        "_client",
        "_continuation",
        "_core",
        "_ended",
        "_freely_retried",
        "_given_before",
        "_heard",
        "_held_since",
        "_joined",
        "_log",
        "_overhead",
        "_placement",
        "_quota",
        "_replica",
        "_reservation",
        "_resume_until",
        "_resumptions",
        "_sent",
        "_upstream",
        "_waited",
        "order",
        "prompt",
        "streams",
        "ticket",
        "tried",
    )

    def __init__(self, core: Core, client: Client, order: Order) -> None:
        self._core = core
        self._client = client
        self.order = order
        self.prompt = order.prompt
        self.streams = bool(order.probe.stream)
        self.tried: tuple[str, ...] = ()
        self.ticket = self._make_ticket(0.0)
        self._answer = ClientAnswer(core, client, order)
        self._quota: Waiting | None = None
        self._reservation: Reservation | None = None
        self._body_held = len(order.request.body)
        self._attempts = 0
        """In a row from which the client got nothing."""
        self._given_before = 0
        self._resume_until = 0.0
        self._resumptions = 0
        """Times that the stream has gone on elsewhere."""
        self._freely_retried = False
        self._charged = False
        """The queue counts the request as one that a replica works on."""
        self._replica: Replica | None = None
        self._placement: Placement | None = None
        self._upstream: UpstreamConnection | None = None
        self._continuation: Ask | None = None
        """What this replica is asked so that the stream goes on."""
        self._sent = False
        """A request's bytes are on their way to the replica."""
        self._joined = False
        """The client gets what this replica answers."""
        self._ended = False
        self._held_since: float | None = None
        self._waited = 0.0
        """Seconds in the queue and for connections: not the gateway's own work."""
        self._overhead = 0.0
        self._heard = 0.0
        self._began_at = 0.0
        """When this replica was sent what it answers."""
        self._log: list[Attempt] = []

    def _make_ticket(self, deadline: float) -> Ticket[Any]:
        order = self.order
        return Ticket(
            self,
            number=order.number,
            arrived=order.arrived,
            deadline=deadline,
            key=order.caller.id,
            band=order.terms.priority,
            weight=order.terms.weight,
            prompt_tokens=order.input_tokens,
            body_bytes=len(order.request.body),
        )

    # The client's connection calls these.

    def start(self) -> None:
        """Asks whether the limits let it in; then for a kept answer, then for a replica."""
        self._core.hold_body(self._body_held)
        self._ask_limits()

    def _ask_limits(self) -> None:
        order, core = self.order, self._core
        self._held_since = now = monotonic()
        order.take_account(now)
        account = order.account
        if account is None:
            self._let_in()
            return
        decided = core.limiter.admit(account, order.input_tokens, order.output_tokens, now)
        if decided is not None:
            self._decide(decided)
        elif core.leases is not None:
            self._quota = Waiting(
                account, order.input_tokens, order.output_tokens, since=now, decide=self._decide
            )
            core.leases.wait(self._quota)

    def on_client_gone(self) -> None:
        """The client hung up: the engine's work ends now, unless others wait for the answer too."""
        if self._ended:
            return
        flight = self._answer.flight
        if flight is not None and flight.outlives(self._on_deserted):
            self._client = Nobody()
            self._answer.change_client(self._client)
            self._core.unattended.add(self)
            if self._upstream is not None:
                self._upstream.resume()
            return
        self._on_deserted()

    def on_client_drained(self) -> None:
        """The client takes bytes again."""
        self._heard = monotonic()
        if self._upstream is not None:
            self._upstream.resume()

    def check(self, now: float) -> None:
        """Called twice a second: ends what has been silent too long. `now` is monotonic."""
        replica = self._replica
        if not self._sent or self._ended or replica is None:
            return
        limits = self._core.limits
        silence = now - self._heard
        if self._answer.is_slow():
            if silence >= limits.stream_idle_seconds:
                self._break_off(f"the client took nothing for {limits.stream_idle_seconds:g} s")
        elif self._joined:
            self._check_stream(replica, now, silence)
        elif silence >= limits.first_byte_seconds:
            self._drop_upstream()
            self.refuse(upstream_silent(limits.first_byte_seconds))
        elif silence >= limits.silent_seconds:
            replica.question(now)

    def _check_stream(self, replica: Replica, now: float, silence: float) -> None:
        """Whether a silent stream waits on.

        A replica that answers nothing at all is dead, and all leave it. One that answers while its tokens stay away
        may be reading a long prompt: its streams wait longer, and leave it only for another.
        """
        limits = self._core.limits
        if silence >= limits.stream_idle_seconds:
            self._lose_replica(f"nothing for {limits.stream_idle_seconds:g} s", reason="silent")
        elif self._answer.ledger is not None and replica.pace.is_hung(self._heard, now):
            replica.question(now)
            if silence >= limits.stuck_seconds and self.order.model.has_life_beside(replica):
                self._lose_replica(f"the replica was silent for {silence:.1f} s", reason="silent")

    # Its model calls these.

    def assign(self, replica: Replica, placement: Placement, now: float) -> None:
        """It is the turn of this request at this replica."""
        self._replica, self._placement = replica, placement
        self._charged = True
        self._attempts += 1
        self._given_before = self._answer.given
        if self._held_since is not None:
            self._waited += now - self._held_since
        self._log.append(Attempt(replica.route.slot, now - self.order.arrived))
        self._held_since = now
        refusal = self.order.fit(replica.route.engine)
        if refusal is not None:
            self._core.loop.call_soon(self.refuse, refusal)  # its model is in the midst of giving places out
            return
        if self._answer.began:
            self._core.spawn(self._continue_at(replica))
            return
        connection = replica.pool.take()
        if connection is not None:
            self._send(connection)
        else:
            self._core.spawn(self._connect(replica))

    def refuse(self, refusal: Refusal, headers: tuple[Header, ...] = ()) -> None:
        """Ends without an answer of a replica, or without the rest of one."""
        if self._ended:
            return
        if self._answer.began:
            self._break_off(refusal.message)
            return
        flight = self._answer.unshare()
        if flight is not None:
            flight.give_up()
        self._end(failed=True, status=refusal.status, error=refusal.code)
        self._client.answer_refusal(refusal, headers, self.order.refusal_body(refusal))

    def reject(self, rejection: Rejection[Any]) -> None:
        """The queue does not take it, or keeps it no longer."""
        message = self.order.model.route.message
        self.turn_away(refusal_of(rejection, model=self.order.asked, message=message))

    def turn_away(self, refusal: Refusal) -> None:
        """Its model will not serve it; a fallback may."""
        if not self._turn_to_fallback():
            self.refuse(refusal)

    def tokens_so_far(self) -> int:
        """Events of the unfinished stream, for the live count."""
        return self._answer.events()

    # The replica and its connection call these.

    def on_replica_dead(self, detail: str, *, silent: bool) -> None:
        """Goes elsewhere; an answer that still comes is left alone, unless the replica is silent."""
        if not self._ended and (silent or not self._joined):
            self._lose_replica(detail, reason="replica_dead")

    def on_lost(self, detail: str, *, stale: bool) -> None:
        """The connection broke before the answer was complete."""
        self._upstream = None
        replica = self._replica
        if self._ended or replica is None:
            return
        if stale and not self._joined and not self._freely_retried:
            self._freely_retried = True
            replica.pool.close_idle()
            self._core.metrics.retries.add((self.order.model.name, "stale_connection"))
            self._sent = False
            self._held_since = monotonic()
            self._core.spawn(self._connect(replica))
            return
        replica.doubt()
        self._lose_replica(detail, reason="connection_lost")

    def on_answer(self, connection: UpstreamConnection, now: float) -> None:
        """Passes on what has come of the answer."""
        reader, answer = connection.reader, self._answer
        if not reader.head_complete:
            return
        if self._joined:
            if self.streams and self._replica is not None:
                self._replica.pace.saw(self._heard, now)
        elif not self._may_join(reader) or not self._join(connection, now):
            self._heard = now
            return
        self._heard = now
        if reader.parts:
            answer.feed(reader.take(), now)
            if answer.failure is not None:
                self._drop_upstream()
                self._lose_replica(answer.failure, reason="engine_failed")
                return
        if reader.complete:
            self._complete(connection)
            return
        answer.flush()
        if answer.is_slow():
            connection.pause()

    def _may_join(self, reader: ResponseReader) -> bool:
        """Not before a stream's first event, until when another replica may take over; what is translated comes whole."""
        if reader.complete:
            return True
        if reader.event_stream:
            return bool(reader.parts)
        return self.order.exchange is None or self._answer.began

    # Letting in.

    def _decide(self, decided: Reservation | Denial) -> None:
        """What the limits say, at once or after the shared counters were asked."""
        self._quota = None
        if self._ended:
            return
        if isinstance(decided, Denial):
            self.refuse(decided.refusal, decided.headers)
            return
        self._reservation = decided
        self._let_in()

    def _let_in(self) -> None:
        order, model = self.order, self.order.model
        model.totals.arrivals += 1
        model.budget.pay_in()
        if order.terms.cache == "Off" or not cached.answer_from_cache(
            self._core, self._client, self._answer, order, self
        ):
            self.enter_queue()

    def enter_queue(self) -> None:
        """Looks for a replica; may be held."""
        order, ticket = self.order, self.ticket
        if not ticket.deadline:
            wait = self._core.limits.queue_seconds
            if order.terms.queue_seconds is not None:
                wait = min(wait, order.terms.queue_seconds)
            ticket.deadline = monotonic() + wait
        order.model.submit(self)

    def shared_ended(self, status: int, cache: str, saved: Spent = NOTHING) -> None:
        """Another request's answer was this one's, or none came: the request counts, `saved` tokens do not."""
        self._answer.cache = cache
        self._answer.status = status if status == _OK else 0  # what was refused has reached no replica
        self._end(failed=status >= _SERVER_ERROR or status == 0, status=status, saved=saved)

    # At a replica.

    async def _connect(self, replica: Replica) -> None:
        try:
            connection = await replica.pool.connect(self._core.limits.connect_seconds)
        except OSError as error:
            if self._replica is replica and not self._ended:
                replica.doubt()
                self._lose_replica(str(error) or "no reply to a connection", reason="connect_failed")
            return
        if self._replica is not replica or self._ended or self._sent:
            replica.pool.keep(connection)  # the request is elsewhere by now
            return
        if self._held_since is not None:
            self._waited += monotonic() - self._held_since
        self._send(connection)

    def _send(self, connection: UpstreamConnection) -> None:
        replica, order, ask = self._replica, self.order, self._continuation
        assert replica is not None  # noqa: S101 - a connection belongs to the replica assigned
        path, body = (order.path, order.body) if ask is None else (ask.path.encode(), ask.body)
        self._upstream = connection
        self._sent = True
        self._held_since = None
        self._heard = self._began_at = now = monotonic()
        head = upstream_head(
            replica.prefix,
            path,
            order.request.headers,
            length=len(body),
            request_id=order.request.request_id,
        )
        if not self._overhead:
            self._overhead = max(0.0, now - order.arrived - self._waited)
        connection.send(self, head, body, now)

    def _join(self, connection: UpstreamConnection, now: float) -> bool:
        """The replica's answer begins; False when it is not the one that the client gets."""
        reader, replica, placement = connection.reader, self._replica, self._placement
        assert replica is not None  # noqa: S101 - it answers
        assert placement is not None  # noqa: S101 - the same
        answer = self._answer
        if reader.status == _NOT_READY:
            self._drop_upstream()
            replica.cool_down()
            self._lose_replica("the replica says that it is not ready", reason="not_ready", failed=False)
            return False
        if answer.began and (reader.status != _OK or not reader.event_stream):
            self._drop_upstream()
            self._lose_replica(f"it answers {reader.status} when asked to go on", reason="not_resumed")
            return False
        if reader.status == _UNAUTHORIZED or not reader.has_known_end():
            self._drop_upstream()
            refused = reader.status == _UNAUTHORIZED
            why = "it refused the gateway's secret" if refused else "it has no known end"
            self.refuse(upstream_invalid(f"the replica's answer cannot be passed on: {why}"))
            return False
        self._joined = True
        self.order.model.router.answered(placement, now)
        replica.answered(now, streamed=self.streams)
        if answer.began:
            return True
        account = self.order.account
        lines = self._core.limiter.headers(account, now) if account is not None else b""
        if self.order.exchange is not None and not reader.event_stream:
            answer.give_whole(reader, lines)
            self._finish(connection)
            return False
        answer.begin(reader, lines)
        prepared = self.order.prepared
        if answer.ledger is None or prepared is None or not prepared.resumes:
            self._release_body()
        return True

    def _complete(self, connection: UpstreamConnection) -> None:
        ledger = self._answer.ledger
        if ledger is not None and ledger.head is not None and not ledger.finished and not ledger.spoiled:
            connection.abort()
            self._upstream = None
            self._lose_replica("it ended before it was complete", reason="cut_short")
            return
        self._answer.complete()
        self._finish(connection)

    def _finish(self, connection: UpstreamConnection) -> None:
        self._upstream = None
        connection.release()
        status = self._answer.status
        self._end(failed=status >= _SERVER_ERROR, status=status)

    # Elsewhere.

    def _lose_replica(self, detail: str, *, reason: str, failed: bool = True) -> None:
        """Leaves the replica: the request or what is left of its stream goes to another, if there is one to go to."""
        self._drop_upstream()
        began = self._answer.began
        now = monotonic()
        if self._answer.given > self._given_before:
            self._attempts = 0
            self._resume_until = now + self._core.limits.resume_seconds
        if self._log:
            self._log[-1].failure = reason
        self._leave_replica(now, failed=failed, tried=True)
        ledger = self._answer.ledger
        if began and ledger is None:
            self._break_off(detail)
        elif (
            self._attempts >= self._core.limits.attempts
            or (began and now >= self._resume_until)
            or not self._may_repeat()
        ):
            if began:
                self._break_off(detail)
            else:
                self.turn_away(upstream_failed(self.order.model.name, self._attempts, detail))
        else:
            self._core.metrics.retries.add((self.order.model.name, reason))
            self._come_back()

    def _may_repeat(self) -> bool:
        """Whether the budget for repetitions allows one more; a stream's first continuation is free."""
        if self._answer.began and not self._resumptions:
            self._resumptions = 1
            return True
        return self.order.model.budget.take(monotonic())

    def _come_back(self) -> None:
        self._held_since = monotonic()
        if self._answer.began:
            self.ticket.deadline = self._resume_until
        self._charged = False
        self.order.model.come_back(self)

    def _turn_to_fallback(self) -> bool:
        """Asks another model in the place of this one, where there is one; the limits of that one hold then."""
        order = self.order
        if self._answer.began:
            return False
        route = order.next_route()
        if route is None:
            return False
        flight = self._answer.unshare()
        if flight is not None:
            flight.give_up()
        order.model.totals.failed += 1
        self._settle(NOTHING, monotonic(), reached=False)
        refusal = order.turn_to(route)
        if refusal is not None:
            self.refuse(refusal)
            return True
        self.prompt = order.prompt
        self.ticket = self._make_ticket(self.ticket.deadline)
        self.tried = ()
        self._attempts = 0
        self._ask_limits()
        return True

    async def _continue_at(self, replica: Replica) -> None:
        """Finds out how the stream goes on at this replica, and asks for it."""
        prepared, ledger = self.order.prepared, self._answer.ledger
        assert prepared is not None  # noqa: S101 - only what was prepared has a ledger
        assert ledger is not None  # noqa: S101 - callers look
        patience = min(QUESTION_SECONDS, self._resume_until - monotonic())
        found: Joined | bytes | Refusal
        try:
            found = await find_continuation(
                replica,
                prepared,
                ledger,
                self.order.path.decode(),
                patience,
            )
        except OSError as error:
            if self._replica is replica and not self._ended:
                replica.doubt()
                self._lose_replica(str(error) or "no reply", reason="not_resumed")
            return
        if self._replica is not replica or self._ended:
            return
        if isinstance(found, Refusal):
            self._leave_replica(monotonic(), failed=False, tried=False)
            self._break_off(found.message)
        elif isinstance(found, bytes):
            self._leave_replica(monotonic(), failed=False, tried=False)
            self._close_stream(found)
        else:
            self._continuation = found.ask
            self._join_splice(found.splice)
            await self._connect(replica)

    def _join_splice(self, splice: Splice) -> None:
        self._core.metrics.resumed.add((self.order.model.name,))
        self._answer.join(splice)

    def _close_stream(self, missing: bytes) -> None:
        """The text was complete: only its last events were missing."""
        self._answer.feed(missing, monotonic())
        self._answer.complete()
        self._end(failed=False, status=self._answer.status)

    # Ends.

    def _on_deserted(self) -> None:
        """Nobody waits for the answer any more."""
        if self._ended:
            return
        self._core.metrics.disconnects.add((self.order.model.name,))
        if self._quota is not None:
            self._quota.withdrawn = True
        self._drop_upstream()
        self._end(failed=True, status=_CLIENT_GONE)

    def _break_off(self, detail: str) -> None:
        """The answer has begun and will not be completed."""
        self._drop_upstream()
        self._core.metrics.broken.add((self.order.model.name,))
        refusal = stream_broken(detail)
        self._end(failed=True, status=self._answer.status, error=refusal.code)
        self._answer.break_off(refusal)

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()

    def _leave_replica(self, now: float, *, failed: bool, tried: bool, tpot: float | None = None) -> None:
        replica, placement = self._replica, self._placement
        self._replica = self._placement = self._continuation = None
        self._sent = self._joined = False
        if replica is None or placement is None:
            return
        if tried:
            self.tried = (*self.tried, replica.route.slot)
        self.order.model.release(self, replica, placement, now, failed=failed, tpot=tpot)

    def _release_body(self) -> None:
        """No replica will need it any more."""
        self._core.hold_body(-self._body_held)
        self._body_held = 0
        self.order.request.body = self.order.body = b""

    def _settle(self, spent: Spent, now: float, *, reached: bool) -> None:
        """The charges of the limits and of the queue become what the request has cost."""
        order = self.order
        reservation, self._reservation = self._reservation, None
        if reservation is not None and reached:
            self._core.limiter.settle(reservation, spent.prompt, spent.output, now)
        elif reservation is not None:
            self._core.limiter.cancel(reservation, now)
        if self._charged:
            self._charged = False
            order.model.queue.settle(
                self.ticket,
                prompt_tokens=spent.prompt,
                output_tokens=spent.output,
                seconds=now - self._began_at,
            )

    def _end(self, *, failed: bool, status: int, error: str = "", saved: Spent = NOTHING) -> None:
        self._ended = True
        answer, order = self._answer, self.order
        if self.ticket.waits:
            order.model.withdraw(self)
        spent = spent_on(answer, order, sent=self._began_at > 0)
        now = monotonic()
        self._settle(spent, now, reached=answer.status > 0 or self._began_at > 0)
        self._leave_replica(now, failed=answer.status >= _SERVER_ERROR, tried=False, tpot=spent.tpot)
        self._release_body()
        self._core.unattended.discard(self)
        self.ticket.item = None  # the two know each other: without this only the collector would free them
        tell(
            self._core,
            order,
            now,
            saved if answer.cache in REPEATED else spent,
            Ending(
                status=status,
                failed=failed,
                error=error,
                cache=answer.cache,
                queued=self._waited,
                overhead=self._overhead,
                first_token_at=answer.first_token_at,
                attempts=self._log,
            ),
        )
