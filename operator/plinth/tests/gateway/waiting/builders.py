"""Tickets and queues with defaults that a test overrides where it matters."""

from __future__ import annotations

from itertools import count

from plinth.domain.access import Band
from plinth.gateway.waiting.queue import WaitingLimits, WaitingQueue
from plinth.gateway.waiting.ticket import Ticket

_numbers = count()


def make_ticket(
    name: str = "a",
    *,
    key: str = "key",
    band: Band = "default",
    weight: int = 1,
    arrived: float = 0.0,
    patience: float = 300.0,
    prompt_tokens: int = 100,
    body_bytes: int = 400,
) -> Ticket[str]:
    return Ticket(
        name,
        number=next(_numbers),
        arrived=arrived,
        deadline=arrived + patience,
        key=key,
        band=band,
        weight=weight,
        prompt_tokens=prompt_tokens,
        body_bytes=body_bytes,
    )


def make_queue(*tickets: Ticket[str], requests: int = 1000, total_bytes: int = 10**9) -> WaitingQueue[str]:
    queue: WaitingQueue[str] = WaitingQueue(WaitingLimits(requests=requests, bytes=total_bytes))
    for ticket in tickets:
        assert queue.offer(ticket, ticket.arrived, slots=1) is None
    return queue


def take_one(queue: WaitingQueue[str], now: float = 0.0) -> str | None:
    """The name of the request whose turn it is; it runs from then on."""
    ticket = queue.first(now, reserved=False, slots=1)
    if ticket is None:
        return None
    queue.take(ticket)
    return ticket.item


def take_all(queue: WaitingQueue[str], now: float = 0.0) -> str:
    return " ".join(iter(lambda: take_one(queue, now) or "", ""))


def learn_pace(queue: WaitingQueue[str], *, seconds: float, tokens: int = 100) -> None:
    """Ends requests of so many output tokens after so long, until the queue predicts."""
    for _ in range(20):
        ticket = make_ticket("past", key="past", prompt_tokens=0)
        queue.pass_by(ticket)
        queue.settle(ticket, prompt_tokens=0, output_tokens=tokens, seconds=seconds)
