"""Fairness between the keys of one band: virtual token counters. Pure.

VTC (arXiv 2401.00588): each key has a counter of the tokens it was served, output ones doubled, divided by its
weight; the key with the smallest counter is next. A key that comes back is lifted to the smallest counter of those
waiting, or to that of the key which waited last: what it left unused is not saved up, and what others used while
nobody waited is not held against them. As in the variant with predicted lengths, the whole
expected work is charged at dispatch and corrected at the end, so that a key cannot take many places at once before
its first tokens come.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final, Generic

from plinth.gateway.waiting.flow import Flow
from plinth.gateway.waiting.ticket import OUTPUT_WEIGHT, T, Ticket

MOST_FLOWS: Final = 4096
"""Keys remembered; idle ones are forgotten first, which at most forgives them what they were charged too much."""
EXPECTED_OUTPUT: Final = 256.0
"""Output tokens of a key's first request."""
_SLACK: Final = 64


class BandQueue(Generic[T]):
    """The flows of one band."""

    __slots__ = (
        "_flows",
        "_last",
        "_order",
        "_turns",
        "busy_weight",
        "crowding",
        "running",
        "waiting",
        "waiting_work",
    )

    def __init__(self) -> None:
        self.waiting: dict[int, Ticket[T]] = {}
        """By number, in the order they came."""
        self.waiting_work = 0.0
        self.busy_weight = 0
        """Weights of the keys of which anything waits or runs."""
        self.running = 0
        """Requests at replicas."""
        self.crowding = 0.0
        """Sum over them of the requests that their key has at replicas for each unit of its weight."""
        self._flows: dict[str, Flow] = {}
        self._order: list[tuple[float, int, str, Flow]] = []
        """A heap of counters. A changed counter is entered anew; entries that no longer hold are passed over."""
        self._last: Flow | None = None
        """The key that waited last."""
        self._turns = 0

    def join(self, ticket: Ticket[T]) -> None:
        """A request waits."""
        flow = self._flow_of(ticket)
        ticket.work = flow.estimate(ticket.prompt_tokens)
        flow.join(ticket)
        self.waiting[ticket.number] = ticket
        self.waiting_work += flow.foresee(ticket.prompt_tokens)
        if flow.waiting == 1:
            self._enter(flow)

    def leave(self, ticket: Ticket[T]) -> bool:
        """It goes without having been served; False when it did not wait."""
        if self.waiting.pop(ticket.number, None) is None:
            return False
        flow = self._remove(ticket)
        if not flow.waiting:
            self._last = flow
        self._settle_busy(flow)
        return True

    def take(self, ticket: Ticket[T]) -> None:
        """A waiting request goes to a replica: its key is charged."""
        del self.waiting[ticket.number]
        self._charge(self._remove(ticket), ticket)

    def pass_by(self, ticket: Ticket[T]) -> None:
        """A request goes to a replica at once, as nothing waits; its key is charged all the same."""
        flow = self._flow_of(ticket)
        ticket.work = flow.estimate(ticket.prompt_tokens)
        self._charge(flow, ticket)

    def give_back(self, ticket: Ticket[T]) -> None:
        """A request comes back from a replica unanswered: the charge is void, its key is where it was."""
        flow = ticket.flow
        assert flow is not None  # noqa: S101 - what runs has its flow
        flow.turn = 0  # of equals it is the first again
        self._correct(flow, ticket, 0.0)

    def settle(self, ticket: Ticket[T], prompt_tokens: int, output_tokens: int) -> None:
        """A request has ended: the charge becomes what it really cost."""
        flow = ticket.flow
        assert flow is not None  # noqa: S101 - what runs has its flow
        if output_tokens:
            before = flow.waiting_work
            flow.learn(output_tokens)
            self.waiting_work += flow.waiting_work - before
        self._correct(flow, ticket, prompt_tokens + OUTPUT_WEIGHT * output_tokens)

    def first(self, share: float) -> Ticket[T] | None:
        """The request whose turn it is, of the keys with fewer than `share` requests at replicas for each weight."""
        order, passed = self._order, []
        found: Ticket[T] | None = None
        while order:
            entry = order[0]
            flow = entry[3]
            if not flow.waiting or entry[0] != flow.charged or entry[1] != flow.turn:
                heappop(order)
            elif flow.running >= share * flow.weight:
                passed.append(heappop(order))
            else:
                found = flow.first()
                break
        for entry in passed:
            heappush(order, entry)
        return found

    def work_before(self, ticket: Ticket[T]) -> float:
        """Work of this band that is served before a new ticket, if nothing else comes.

        Its key is served up to its own backlog; every other key by then up to the same counter, or all it has.
        """
        flow = self._flows.get(ticket.key)
        floor = self._floor()
        own = flow.waiting_work if flow is not None else 0.0
        level = (max(floor, flow.charged) if flow is not None else floor) + own / ticket.weight
        others = (item for item in self._flows.values() if item.waiting and item is not flow)
        return own + sum(
            min(item.waiting_work, max(0.0, level - item.charged) * item.weight) for item in others
        )

    def longest(self) -> Flow | None:
        """The key with the most requests waiting for its weight; of equals the first by name."""
        flows = (flow for flow in self._flows.values() if flow.waiting)
        return min(flows, key=lambda flow: (-flow.waiting / flow.weight, flow.key), default=None)

    def is_below(self, key: str, share: float) -> bool:
        """Whether a key has fewer than `share` requests at replicas for each unit of its weight."""
        flow = self._flows.get(key)
        return flow is None or flow.running < share * flow.weight

    def waiting_of(self, key: str) -> int:
        """Requests of a key that wait."""
        flow = self._flows.get(key)
        return flow.waiting if flow is not None else 0

    def _flow_of(self, ticket: Ticket[T]) -> Flow:
        flow = self._flows.get(ticket.key)
        if flow is None:
            if len(self._flows) >= MOST_FLOWS:
                self._forget_one()
            flow = self._flows[ticket.key] = Flow(ticket.key, EXPECTED_OUTPUT)
        if not flow.waiting:
            if not flow.running:
                flow.weight = ticket.weight
                self.busy_weight += flow.weight
            flow.charged = max(flow.charged, self._floor())
        return flow

    def _floor(self) -> float:
        """What a returning key is lifted to."""
        order = self._order
        while order:
            charged, turn, _, flow = order[0]
            if flow.waiting and flow.charged == charged and flow.turn == turn:
                return charged
            heappop(order)
        return self._last.charged if self._last is not None else 0.0

    def _remove(self, ticket: Ticket[T]) -> Flow:
        flow = ticket.flow
        assert flow is not None  # noqa: S101 - what waits has its flow
        flow.leave(ticket)
        # Sums of floats drift; an empty band starts anew.
        work = flow.foresee(ticket.prompt_tokens)
        self.waiting_work = self.waiting_work - work if self.waiting else 0.0
        return flow

    def _charge(self, flow: Flow, ticket: Ticket[T]) -> None:
        self._turns += 1
        ticket.flow = flow
        flow.turn = self._turns
        self._count_running(flow, 1)
        flow.charged += ticket.work / flow.weight
        if flow.waiting:
            self._enter(flow)
        else:
            self._last = flow

    def _correct(self, flow: Flow, ticket: Ticket[T], work: float) -> None:
        flow.charged += (work - ticket.work) / flow.weight
        self._count_running(flow, -1)
        if flow.waiting:
            self._enter(flow)
        else:
            self._settle_busy(flow)

    def _count_running(self, flow: Flow, change: int) -> None:
        before = flow.running
        flow.running += change
        self.running += change
        grown = (flow.running * flow.running - before * before) / flow.weight
        self.crowding = self.crowding + grown if self.running else 0.0

    def _settle_busy(self, flow: Flow) -> None:
        if not flow.is_busy():
            self.busy_weight -= flow.weight

    def _enter(self, flow: Flow) -> None:
        heappush(self._order, (flow.charged, flow.turn, flow.key, flow))
        if len(self._order) > 2 * len(self._flows) + _SLACK:
            self._order = [
                (item.charged, item.turn, item.key, item) for item in self._flows.values() if item.waiting
            ]
            heapify(self._order)

    def _forget_one(self) -> None:
        """The oldest of the idle; busy ones on the way go to the end, so that none is looked at for ever."""
        for key in list(self._flows)[:_SLACK]:
            flow = self._flows.pop(key)
            if not flow.is_busy():
                return
            self._flows[key] = flow
