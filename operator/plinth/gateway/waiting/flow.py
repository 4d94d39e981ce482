"""One key's account in one band: what it has been served, and its requests that wait. Pure."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Any, Final

from plinth.gateway.waiting.ticket import OUTPUT_WEIGHT, Ticket

_ADAPTS: Final = 0.1
"""How far one answer moves the expected length of the next."""
_SLACK: Final = 32
"""Tickets that have left and may stand in the line beside those that wait, so that leaving costs nothing."""


class Flow:
    """Tickets of one key, the earliest deadline first; of equal deadlines the one that arrived first."""

    __slots__ = (
        "_answers",
        "_line",
        "_prompt_tokens",
        "_typical_output",
        "charged",
        "expected_output",
        "key",
        "running",
        "turn",
        "waiting",
        "weight",
    )

    def __init__(self, key: str, expected_output: float) -> None:
        self.key = key
        self.weight = 1
        self.charged = 0.0
        """The virtual token counter: work charged, divided by the weight."""
        self.turn = 0
        """When it was served last, in turns of the band: of equal counters the one that has waited longest."""
        self.waiting = 0
        self._prompt_tokens = 0
        """Of the requests that wait."""
        self.running = 0
        """Requests at replicas."""
        self.expected_output = expected_output
        """Tokens of its next answer, learnt from the last ones: what is charged until it is known."""
        self._typical_output = expected_output
        """The same for what all its waiting requests will be, where the first answers tell more than the supposition."""
        self._answers = 0
        self._line: list[tuple[float, int, Ticket[Any]]] = []

    def is_busy(self) -> bool:
        """Whether anything of it waits or runs."""
        return self.waiting > 0 or self.running > 0

    def estimate(self, prompt_tokens: int) -> float:
        """Work that a request is expected to be."""
        return prompt_tokens + OUTPUT_WEIGHT * self.expected_output

    def foresee(self, prompt_tokens: int) -> float:
        """Work that one of its waiting requests will probably be."""
        return prompt_tokens + OUTPUT_WEIGHT * self._typical_output

    @property
    def waiting_work(self) -> float:
        """Work that all its waiting requests will probably be, by what is known now."""
        return self._prompt_tokens + OUTPUT_WEIGHT * self._typical_output * self.waiting

    def learn(self, output_tokens: int) -> None:
        """How long an answer was."""
        self._answers += 1
        self._typical_output += max(_ADAPTS, 1 / self._answers) * (output_tokens - self._typical_output)
        self.expected_output += _ADAPTS * (output_tokens - self.expected_output)

    def join(self, ticket: Ticket[Any]) -> None:
        """A request waits."""
        ticket.flow = self
        ticket.waits = True
        self.waiting += 1
        self._prompt_tokens += ticket.prompt_tokens
        heappush(self._line, (ticket.deadline, ticket.number, ticket))

    def leave(self, ticket: Ticket[Any]) -> None:
        """It waits no more. Its place in the line is cleared when it comes to the front, or with many others."""
        ticket.waits = False
        self.waiting -= 1
        self._prompt_tokens -= ticket.prompt_tokens
        if not self.waiting:
            self._line.clear()
        elif len(self._line) > 2 * self.waiting + _SLACK:
            self._line = [place for place in self._line if place[2].waits]
            heapify(self._line)

    def first(self) -> Ticket[Any]:
        """The one whose turn it is; there must be one."""
        line = self._line
        while not line[0][2].waits:
            heappop(line)
        return line[0][2]

    def last(self) -> Ticket[Any]:
        """The one that gives way when the queue is full: the latest deadline, then the latest arrival."""
        return max(place for place in self._line if place[2].waits)[2]
