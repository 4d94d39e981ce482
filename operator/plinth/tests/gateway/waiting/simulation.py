"""Replicas as a queue sees them, in simulated time: the queue, its limits and the choice of a replica are production code.

An engine reads prompts one after the other at a fixed rate (or also side by side), holds so many streams at once, and keeps what is beyond
that in a line of its own. A stream's token takes longer the more streams run when it starts.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from itertools import count

from plinth.domain.access import Band
from plinth.gateway.routing.choice import Standing, with_room
from plinth.gateway.waiting.places import Room, count_places
from plinth.gateway.waiting.queue import Rejection, WaitingLimits, WaitingQueue
from plinth.gateway.waiting.saturation import Saturation
from plinth.gateway.waiting.ticket import Ticket

SWEEP_SECONDS = 0.5
DECODING_TOKENS = 32
"""What a running request weighs against prompt tokens still to be read."""


@dataclass(slots=True)
class Request:
    """What is asked for, and what became of it. Seconds of the simulation."""

    at: float
    key: str
    prompt: int
    output: int
    band: Band = "default"
    weight: int = 1
    patience: float = 300.0
    dispatched: float | None = None
    first_token: float | None = None
    ended: float | None = None
    rejection: Rejection[Request] | None = None
    rejected_at: float | None = None

    @property
    def ttft(self) -> float:
        assert self.first_token is not None
        return self.first_token - self.at

    @property
    def waited(self) -> float:
        assert self.dispatched is not None
        return self.dispatched - self.at


@dataclass(frozen=True, slots=True)
class Engine:
    """What a replica can do; the gateway is told only `planned`."""

    streams: int = 32
    planned: int = 32
    prefill_rate: float = 15_000.0
    step_seconds: float = 0.012
    stream_seconds: float = 0.0003
    """Added to a step by each stream."""
    side_seconds: float = 0.0
    """Until a first token, beside other streams: what of a prompt is read in parts, between their steps."""


class Replica:
    """One engine, and the gateway's view of it."""

    def __init__(self, simulation: Simulation, name: str, engine: Engine) -> None:
        self.engine = engine
        self.standing = Standing(name, engine.planned)
        self.saturation = Saturation(engine.planned, simulation.now)
        self._simulation = simulation
        self._line: deque[Ticket[Request]] = deque()
        self._held = 0
        self._reads_until = 0.0

    def take(self, ticket: Ticket[Request]) -> None:
        now = self._simulation.now
        ticket.item.dispatched = now
        self.standing.in_flight += 1
        self.standing.pending_tokens += ticket.prompt_tokens
        self.saturation.dispatched(now, streamed=True)
        self._line.append(ticket)
        self._start()

    def _start(self) -> None:
        simulation, engine = self._simulation, self.engine
        while self._line and self._held < engine.streams:
            self._held += 1
            ticket = self._line.popleft()
            self._reads_until = (
                max(self._reads_until, simulation.now) + ticket.prompt_tokens / engine.prefill_rate
            )
            first = self._reads_until + engine.side_seconds
            simulation.at(first, lambda ticket=ticket: self._first_token(ticket))  # type: ignore[misc]

    def _first_token(self, ticket: Ticket[Request]) -> None:
        simulation, engine, request = self._simulation, self.engine, ticket.item
        request.first_token = simulation.now
        self.standing.pending_tokens -= ticket.prompt_tokens
        self.saturation.first_token(simulation.now)
        self._follow_limit()
        pace = engine.step_seconds + engine.stream_seconds * self._held
        simulation.at(simulation.now + pace * request.output, lambda: self._end(ticket))
        simulation.dispatch()

    def _follow_limit(self) -> None:
        self.standing.concurrency, self.standing.trying = self.saturation.limit, self.saturation.trying

    def _end(self, ticket: Ticket[Request]) -> None:
        simulation, request = self._simulation, ticket.item
        assert request.dispatched is not None
        request.ended = simulation.now
        self._held -= 1
        self.standing.in_flight -= 1
        self.saturation.ended(simulation.now, answered=True)
        self._follow_limit()
        simulation.queue.settle(
            ticket,
            prompt_tokens=request.prompt,
            output_tokens=request.output,
            seconds=simulation.now - request.dispatched,
        )
        self._start()
        simulation.dispatch()


@dataclass(slots=True)
class Simulation:
    """Run once; the requests carry the results."""

    engines: tuple[Engine, ...]
    limits: WaitingLimits = field(default_factory=lambda: WaitingLimits(requests=100_000))
    now: float = 0.0
    queue: WaitingQueue[Request] = field(init=False)
    replicas: dict[str, Replica] = field(init=False)
    order: list[Request] = field(default_factory=list)
    """Requests as they were given out."""
    most_waiting: int = 0
    wake_ups: int = 0
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self.queue = WaitingQueue(self.limits)
        self.replicas = {}
        for number, engine in enumerate(self.engines):
            self.add(f"replica-{number}", engine)

    def add(self, name: str, engine: Engine) -> None:
        self.replicas[name] = Replica(self, name, engine)

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), what))

    def run(self, requests: Iterable[Request], *, until: float = float("inf")) -> None:
        last = 0.0
        for request in requests:
            self.at(request.at, lambda request=request: self._arrive(request))  # type: ignore[misc]
            last = max(last, request.at)
        self.at(0.0, lambda: self._sweep(last))
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()

    def dispatch(self) -> None:
        """As the fleet does it: whenever a place may have become free."""
        if not self.queue:
            return
        standings, slots = self._standings()
        while True:
            room = Room(standings)
            ticket = self.queue.first(self.now, reserved=not room.open, slots=slots)
            if ticket is None:
                return
            chosen = self._choose(ticket, room, slots)
            if chosen is None:
                return
            self.queue.take(ticket)
            self._give(ticket, chosen)

    def _arrive(self, request: Request) -> None:
        ticket = Ticket(
            request,
            number=next(self._numbers),
            arrived=self.now,
            deadline=self.now + request.patience,
            key=request.key,
            band=request.band,
            weight=request.weight,
            prompt_tokens=request.prompt,
            body_bytes=4 * request.prompt,
        )
        standings, slots = self._standings()
        chosen = None if self.queue else self._choose(ticket, Room(standings), slots)
        if chosen is not None:
            self.queue.pass_by(ticket)
            self._give(ticket, chosen)
            return
        rejection = self.queue.offer(ticket, self.now, slots=slots)
        if rejection is not None:
            self._reject(rejection)
        self.wake_ups += self.queue.wake_up_due(self.now)
        self.most_waiting = max(self.most_waiting, len(self.queue))
        self.dispatch()

    def _choose(self, ticket: Ticket[Request], room: Room, slots: int) -> Standing | None:
        return _least_loaded(room.every if self.queue.may_use_reserve(ticket, slots) else room.open)

    def _give(self, ticket: Ticket[Request], chosen: Standing) -> None:
        self.order.append(ticket.item)
        self.replicas[chosen.slot].take(ticket)

    def _reject(self, rejection: Rejection[Request]) -> None:
        rejection.ticket.item.rejection = rejection
        rejection.ticket.item.rejected_at = self.now

    def _sweep(self, last: float) -> None:
        for rejection in self.queue.expired(self.now, slots=self._standings()[1]):
            self.queue.discard(rejection.ticket)
            self._reject(rejection)
        if self.now < last or self.queue:
            self.at(self.now + SWEEP_SECONDS, lambda: self._sweep(last))

    def _standings(self) -> tuple[list[Standing], int]:
        standings = [replica.standing for replica in self.replicas.values()]
        return standings, count_places(standings)


def _least_loaded(standings: Collection[Standing]) -> Standing | None:
    """A choice without a prompt to look at: the one with the least work, of equals the first by name."""
    return min(
        with_room(standings),
        key=lambda item: (item.pending_tokens + DECODING_TOKENS * item.in_flight, item.slot),
        default=None,
    )
