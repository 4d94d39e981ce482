"""Answers under way that several requests share: the first is computed, the others get it as it comes. Pure.

A flight begins with the first request for a key and ends with its answer. Whoever brings the answer (the call that
leads, or a store that had it) feeds it; listeners read at their own pace, from the beginning, then live. What is
held for those who come later or lag behind is bounded, for each flight and for all: beyond it a flight takes no new
listeners, is not kept, and leaves behind who reads too slowly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from plinth.gateway.cache.answer import COLLAPSED, Headers
from plinth.gateway.protocol.errors import Refusal


class Listener(Protocol):
    """A request that waits for another's answer. It is told nothing more once it has left."""

    rank: int
    """Its band; 0 is the most urgent."""

    def on_news(self) -> None:
        """There is more to read, or the flight has ended."""

    def on_lead(self, flight: Flight) -> None:
        """The answer has not begun and its bringer is gone: this request brings it, and listens no more."""

    def on_left_behind(self) -> None:
        """What it would have read next is gone, and it listens no more."""


class Flight:
    """One answer under way."""

    __slots__ = (
        "_dropped",
        "_flights",
        "_listeners",
        "_on_deserted",
        "_parts",
        "_size",
        "complete",
        "headers",
        "key",
        "outcome",
        "rank",
        "refusal",
        "status",
        "tokens",
        "whole",
    )

    def __init__(self, flights: Flights, key: bytes, rank: int) -> None:
        self.key = key
        self.rank = rank
        """The band of the request that brings the answer."""
        self.status = 0
        """0 until the answer has begun."""
        self.headers: Headers = ()
        self.outcome = ""
        """What `cache-status` says to those who listen."""
        self.complete = False
        self.refusal: Refusal | None = None
        """Why it ended without being complete."""
        self.tokens = (0, 0)
        """Of the prompt and of the answer, once they are known."""
        self.whole = True
        """All that came is held, and more will come."""
        self._flights = flights
        self._parts: list[bytes] = []
        self._size = 0
        self._dropped = 0
        """Parts that came before `_parts`."""
        self._listeners: dict[Listener, int] = {}
        """How many parts each has read."""
        self._on_deserted: Callable[[], None] | None = None

    # Whoever brings the answer calls these.

    def begin(self, status: int, headers: Headers, *, outcome: str = COLLAPSED) -> None:
        """The head of an answer that has a body, as all will get it."""
        self.status, self.headers, self.outcome = status, headers, outcome

    def feed(self, data: bytes) -> None:
        """The next part of the body."""
        if not data or not (self.whole or self._listeners):
            return
        self._parts.append(data)
        self._count(len(data))
        if self._is_too_large():
            self._shrink()
        self._tell()

    def end(self) -> bytes | None:
        """The answer is complete: all of its body, unless it was too large to be held."""
        self.complete = True
        body = b"".join(self._parts) if self.whole else None
        self._land()
        return body

    def deliver(self, status: int, headers: Headers, body: bytes, *, outcome: str = COLLAPSED) -> None:
        """A whole answer at once: a kept one, or a document, whose length is then known to all."""
        self.begin(status, headers, outcome=outcome)
        self._parts.append(body)
        self._count(len(body))
        self.complete = True
        self._land()

    def fail(self, refusal: Refusal) -> None:
        """It will not be complete. Who listens is refused the same way, or sees its stream broken off."""
        self.refusal = refusal
        self._land()

    def give_up(self) -> None:
        """Before the answer began, its bringer fails for a reason of its own: the most urgent listener follows it."""
        self._on_deserted = None
        heir = min(self._listeners, key=lambda item: item.rank, default=None)
        if heir is None:
            self._land()
            return
        del self._listeners[heir]
        self.rank = heir.rank
        heir.on_lead(self)

    def outlives(self, on_deserted: Callable[[], None]) -> bool:
        """The bringer's client is gone. True when others listen: it goes on for them, until `on_deserted`."""
        if self._listeners:
            self._on_deserted = on_deserted
            return True
        self._land()
        return False

    # Listeners call these.

    def add(self, listener: Listener) -> None:
        """Listens from the beginning."""
        self._listeners[listener] = 0

    def read(self, listener: Listener) -> bytes:
        """What came since this listener's last read."""
        at = self._listeners[listener] - self._dropped
        parts = self._parts[at:]
        if not parts:
            return b""
        self._listeners[listener] = self._dropped + len(self._parts)
        if not self.whole:
            self._drop_read()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def leave(self, listener: Listener) -> None:
        """It has all, or its client is gone."""
        if self._listeners.pop(listener, None) is None:
            return
        if not self.whole:
            self._drop_read()
        deserted = self._on_deserted
        if deserted is not None and not self._listeners and not self.has_ended():
            self._land()
            deserted()

    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return self.complete or self.refusal is not None

    def can_be_joined(self, rank: int) -> bool:
        """Not when its beginning is gone, nor when it waits in a lower band: that would hold an urgent one back."""
        return self.whole and (self.status != 0 or self.rank <= rank)

    # Steps.

    def _land(self) -> None:
        self._flights.remove(self)
        self.whole = False
        self._tell()
        self._drop_read()

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener.on_news()

    def _is_too_large(self) -> bool:
        return self._size > self._flights.answer_bytes or self._flights.held > self._flights.most_bytes

    def _shrink(self) -> None:
        """What all have read goes; if that is not enough, so do those who keep the rest from going."""
        if self.whole:
            self.whole = False
            self._flights.remove(self)
        self._drop_read()
        if not self._is_too_large():
            return
        newest = self._dropped + len(self._parts) - 1
        for listener in [item for item, read in self._listeners.items() if read < newest]:
            del self._listeners[listener]
            listener.on_left_behind()
        self._drop_read()

    def _drop_read(self) -> None:
        end = self._dropped + len(self._parts)
        read_by_all = min(self._listeners.values(), default=end)
        gone = self._parts[: read_by_all - self._dropped]
        if gone:
            del self._parts[: len(gone)]
            self._dropped = read_by_all
            self._count(-sum(map(len, gone)))

    def _count(self, delta: int) -> None:
        self._size += delta
        self._flights.held += delta


class Flights:
    """All answers under way, by key. `held` bytes of them exceed `most_bytes` by at most one part for each."""

    __slots__ = ("_by_key", "answer_bytes", "held", "most_bytes")

    def __init__(self, *, answer_bytes: int, most_bytes: int) -> None:
        self.answer_bytes = answer_bytes
        self.most_bytes = most_bytes
        self.held = 0
        self._by_key: dict[bytes, Flight] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def join(self, key: bytes, listener: Listener) -> Flight | None:
        """The flight that this request now listens to; None when it must lead one."""
        flight = self._by_key.get(key)
        if flight is None or not flight.can_be_joined(listener.rank):
            return None
        flight.add(listener)
        return flight

    def lead(self, key: bytes, rank: int) -> Flight:
        """A new flight; later requests for the key join it and no other."""
        flight = self._by_key[key] = Flight(self, key, rank)
        return flight

    def remove(self, flight: Flight) -> None:
        """No one joins it from now on."""
        if self._by_key.get(flight.key) is flight:
            del self._by_key[flight.key]
