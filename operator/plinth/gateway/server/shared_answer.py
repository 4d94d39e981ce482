"""A request that gets another's answer while that is computed; to its connection it behaves as a call does.

What a call does with a replica's bytes, this does with a flight's: frames them for this client, in its pace. Its call
waits behind it, and takes its place when it is the one that must bring the answer after all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from plinth.gateway.cache.answer import cache_status
from plinth.gateway.cache.flights import Flight
from plinth.gateway.protocol.errors import Refusal, error_event, stream_broken, waited_in_vain
from plinth.gateway.protocol.response import LAST_CHUNK, chunk, response_head
from plinth.gateway.server.ending import NOTHING, Spent

if TYPE_CHECKING:
    from plinth.gateway.server.answer import Client
    from plinth.gateway.server.core import Core
    from plinth.gateway.server.order import Order

_CLIENT_GONE: Final = 499


class SharedAnswer:
    """Listens to one flight; ends complete, refused, broken off, or as the one that leads."""

    __slots__ = (
        "_began",
        "_chunked",
        "_client",
        "_core",
        "_ended",
        "_flight",
        "_heard",
        "_keep_alive",
        "_lead",
        "_on_end",
        "_order",
        "_patience",
        "rank",
    )

    def __init__(
        self,
        core: Core,
        client: Client,
        order: Order,
        *,
        rank: int,
        lead: Callable[[Flight], None],
        ended: Callable[[int, str, Spent], None],
    ) -> None:
        self._core = core
        self._client = client
        self._order = order
        wait = order.terms.queue_seconds
        self._patience = core.limits.queue_seconds if wait is None else min(wait, core.limits.queue_seconds)
        self._heard = order.arrived
        self._lead = lead
        """Makes the call that brings the answer, in this one's place."""
        self._on_end = ended
        """Told the status, what the cache did, and what it saved."""
        self._flight: Flight | None = None
        self._began = False
        self._ended = False
        self._chunked = False
        self._keep_alive = False
        self.rank = rank

    def listen(self, flight: Flight) -> None:
        """To this flight; its place among the listeners is taken already."""
        self._flight = flight

    def start(self) -> None:
        """Passes on what has come before this request did."""
        self.on_news()

    # The flight calls these.

    def on_news(self) -> None:
        """Passes on what is new, unless the client is still busy with what it has."""
        flight = self._flight
        if self._ended or flight is None or (self._began and self._client.is_slow()):
            return
        if flight.status == 0:
            if flight.refusal is not None:
                self._refuse(flight.refusal)
            return
        data = flight.read(self)
        out = b"" if self._began else self._begin(flight, len(data))
        out += chunk(data) if self._chunked else data
        self._heard = time.monotonic()
        if flight.complete:
            self._complete(out)
            return
        if out:
            self._client.write(out)
        if flight.refusal is not None:
            self._break_off(flight.refusal)

    def on_lead(self, flight: Flight) -> None:
        """This request's own call takes its place.

        In the loop's next turn: where that one is refused at once as well, the next in line follows, and of hundreds
        each would be called within the one before.
        """
        self._core.loop.call_soon(self._take_lead, flight)

    def _take_lead(self, flight: Flight) -> None:
        if self._ended:  # its client has gone meanwhile
            flight.give_up()
        else:
            self._ended = True
            self._lead(flight)

    def on_left_behind(self) -> None:
        """The client took bytes too slowly."""
        self._break_off(stream_broken("the client reads too slowly"))

    # The client's connection calls these.

    def on_client_gone(self) -> None:
        """The client hung up."""
        if not self._ended:
            self._core.metrics.disconnects.add((self._order.model.name,))
            self._end(_CLIENT_GONE)

    def on_client_drained(self) -> None:
        """The client takes bytes again."""
        self._heard = time.monotonic()
        self.on_news()

    def check(self, now: float) -> None:
        """Called twice a second: the answer may begin too late for this request, or the client take none."""
        if self._ended:
            return
        if not self._began:
            if now - self._order.arrived >= self._patience:
                self._refuse(
                    waited_in_vain(self._order.asked, self._patience, "another request like it waits too")
                )
        elif self._client.is_slow() and now - self._heard >= self._core.limits.stream_idle_seconds:
            self._end(0 if self._flight is None else self._flight.status)
            self._client.abort()

    # Steps.

    def _begin(self, flight: Flight, size: int) -> bytes:
        self._began = True
        request = self._order.request
        length = size if flight.complete else None
        self._chunked = length is None and request.chunked_ok
        framed = length is not None or self._chunked
        self._keep_alive = framed and self._core.keeps_alive(request)
        return response_head(
            flight.status,
            [*flight.headers, cache_status(flight.outcome)],
            request_id=request.request_id,
            length=length,
            chunked=self._chunked,
            keep_alive=self._keep_alive,
        )

    def _complete(self, out: bytes) -> None:
        self._client.write(out + LAST_CHUNK if self._chunked else out)
        self._end(self._status())
        self._client.finish(keep_alive=self._keep_alive)

    def _refuse(self, refusal: Refusal) -> None:
        self._end(refusal.status)
        self._client.answer_refusal(refusal)

    def _break_off(self, refusal: Refusal) -> None:
        """The answer has begun and will not be completed."""
        self._core.metrics.broken.add((self._order.model.name,))
        flight = self._flight
        self._end(self._status())
        if flight is not None and _is_event_stream(flight):
            event = error_event(refusal)
            self._client.write(chunk(event) + LAST_CHUNK if self._chunked else event)
            self._client.finish(keep_alive=False)
        else:
            self._client.abort()

    def _status(self) -> int:
        return self._flight.status if self._flight is not None else 0

    def _end(self, status: int) -> None:
        self._ended = True
        flight, self._flight = self._flight, None
        if flight is None:
            self._on_end(status, "", NOTHING)
        else:
            self._on_end(status, flight.outcome, Spent(*flight.tokens) if flight.complete else NOTHING)
            flight.leave(self)


def _is_event_stream(flight: Flight) -> bool:
    return any(
        name == b"content-type" and value.startswith(b"text/event-stream") for name, value in flight.headers
    )
