"""One model as this process serves it: what waits, where it may go, and who is next.

A request is bound to a replica as late as possible: replicas get as many as they work on at once, the others wait here,
so that the replica that frees first takes the request whose turn it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Protocol

from plinth.domain.traffic import Availability, ModelLoad, ModelRoute
from plinth.gateway.options import Limits
from plinth.gateway.protocol.errors import Refusal, unavailable
from plinth.gateway.resume.budget import RepetitionBudget
from plinth.gateway.routing.choice import Standing
from plinth.gateway.routing.objectives import ObjectiveCounts
from plinth.gateway.routing.placement import Placement, Prompt
from plinth.gateway.routing.router import Router
from plinth.gateway.server.replica import AtReplica, Replica
from plinth.gateway.server.shared_load import ModelShare, waiting_rank
from plinth.gateway.server.turns import LOOK_WHILE_WAITING_SECONDS, YIELD_SECONDS, Turns
from plinth.gateway.waiting.places import Room, count_places, is_ample
from plinth.gateway.waiting.queue import Rejection, WaitingLimits, WaitingQueue
from plinth.gateway.waiting.ticket import Ticket


class Dispatchable(AtReplica, Protocol):
    """A request on its way to a replica."""

    __slots__ = ()

    ticket: Ticket[Any]
    prompt: Prompt
    streams: bool
    """Its answer is an event stream."""
    tried: tuple[str, ...]
    """Replicas that have failed it."""

    def assign(self, replica: Replica, placement: Placement, now: float) -> None:
        """It is this replica's turn."""

    def turn_away(self, refusal: Refusal) -> None:
        """No replica of the model will take it."""

    def reject(self, rejection: Rejection[Any]) -> None:
        """It cannot wait, or has waited in vain."""

    def tokens_so_far(self) -> int:
        """Tokens of its unfinished stream."""


class Totals:
    """What only grows while the process lives; kept when a model leaves the table and comes back."""

    def __init__(self) -> None:
        self.arrivals = 0
        self.completed = 0
        self.failed = 0
        self.output_tokens = 0
        self.output_tokens_reported = 0
        self.objectives = ObjectiveCounts()

    def publish(self, share: ModelShare) -> None:
        """So that they outlive this process; in the order of `domain.load_reports.TOTALS`."""
        share.publish_count(0, self.arrivals)
        share.publish_count(1, self.completed)
        share.publish_count(2, self.failed)
        share.publish_count(3, self.output_tokens_reported)
        met = self.objectives
        share.publish_count(4, met.ttft_met)
        share.publish_count(5, met.ttft_missed)
        share.publish_count(6, met.tpot_met)
        share.publish_count(7, met.tpot_missed)


class Bell(Protocol):
    """Who is told what happens to a model and at its replicas."""

    __slots__ = ()

    def mark_changed(self) -> None:
        """The next report will tell."""

    def report_now(self) -> None:
        """The controller should know at once."""

    def on_replica_empty(self, replica: Replica) -> None:
        """The last request at a replica has ended."""

    def hear_of_caches(self, now: float) -> None:
        """Prompts that others sent should be known before a replica is chosen."""

    def tell_of_cache(self, replica: Replica, blocks: Sequence[int], now: float) -> None:
        """A prompt of these blocks was sent there."""


class Model:
    """One model of the table."""

    def __init__(
        self,
        route: ModelRoute,
        totals: Totals,
        limits: Limits,
        *,
        bell: Bell,
        share: ModelShare,
        wake: Callable[[int], None] | None,
    ) -> None:
        """`wake` reaches the other workers; None where there are none."""
        self.name = route.model
        self.route = route
        self.totals = totals
        self.replicas: list[Replica] = []
        self.standings: list[Standing] = []
        """Of the same replicas."""
        self.calls: set[Dispatchable] = set()
        """At replicas now."""
        self.queue: WaitingQueue[Dispatchable] = WaitingQueue(
            WaitingLimits(requests=limits.queue_requests, bytes=limits.queue_bytes)
        )
        self.router = Router(route.strategy)
        self.budget = RepetitionBudget(monotonic())
        self.share = share
        self._gone: Refusal | None = None
        """Set when it has left the table."""
        self._refuses = route.availability is Availability.REFUSED
        """By the table, unless a replica lives all the same."""
        self._by_slot: dict[str, Replica] = {}
        self._peak = 0
        self._bell = bell
        self._turns = Turns(share, wake) if wake is not None else None
        self._next_look: asyncio.TimerHandle | None = None

    def apply(self, route: ModelRoute, replicas: list[Replica]) -> None:
        """A newer table's word."""
        self.route = route
        self._refuses = route.availability is Availability.REFUSED
        self.router.configure(route.strategy)
        for replica in self.replicas:
            if replica not in replicas:
                self.router.leave(replica.standing)
        for replica in replicas:
            if replica not in self.replicas:
                self.router.join(replica.standing)
        self.replicas = replicas
        self.standings = [replica.standing for replica in replicas]
        self.share.replicas = [replica.share for replica in replicas if replica.share is not None]
        self._by_slot = {replica.route.slot: replica for replica in replicas}

    def replica(self, slot: str) -> Replica | None:
        """The one of this name; another model's of the same name is another."""
        return self._by_slot.get(slot)

    def has_life(self) -> bool:
        """Whether any replica takes requests, now or when it has room."""
        return any(standing.available for standing in self.standings)

    def has_life_beside(self, replica: Replica) -> bool:
        """Whether another replica takes requests."""
        return any(standing.available for standing in self.standings if standing is not replica.standing)

    def refusal(self) -> Refusal | None:
        """Why waiting would not help, where that is so."""
        if self._refuses and self._gone is None and not self.has_life():
            return unavailable(self.name, self.route.message)
        return self._gone

    # Requests come and go.

    def submit(self, call: Dispatchable) -> None:
        """A new request: to a replica at once, or into the queue."""
        now = monotonic()
        self.share.look(now)
        self._bell.hear_of_caches(now)
        placement = None
        if not self.queue and not self._gives_way(call.ticket, now):
            placement = self._find_place(call)
        if placement is not None:
            self.queue.pass_by(call.ticket)
            self._give(call, placement, now)
        elif (refusal := self.refusal()) is not None:
            call.turn_away(refusal)
        else:
            self._hold(call, now)

    def come_back(self, call: Dispatchable) -> None:
        """A request that its replica did not answer, or not to the end: it waits at its old place."""
        if (refusal := self.refusal()) is not None:
            self.queue.settle(call.ticket, prompt_tokens=0, output_tokens=0, seconds=0.0)
            call.turn_away(refusal)
            return
        self.queue.put_back(call.ticket)
        self._wait_begins(monotonic())

    def withdraw(self, call: Dispatchable) -> None:
        """A request whose client has gone, or that goes to another model; it need not be held."""
        if self.queue.discard(call.ticket):
            self._publish_waiting()
            self._bell.mark_changed()

    def release(
        self,
        call: Dispatchable,
        replica: Replica,
        placement: Placement,
        now: float,
        *,
        failed: bool,
        tpot: float | None,
    ) -> None:
        """A request has left its replica, whatever the end."""
        self.router.ended(placement, failed=failed, tpot=tpot)
        replica.ended(call, placement, now, streamed=call.streams, tpot=tpot)
        self.calls.discard(call)
        self._bell.mark_changed()
        if not replica.calls:
            self._bell.on_replica_empty(replica)
        if self.queue:
            self.dispatch()
        elif self._turns is not None:
            self._turns.give_up_room()

    def dispatch(self) -> None:
        """Gives held requests out while a replica has room."""
        queue = self.queue
        if not queue:
            return
        now = monotonic()
        self.share.look(now)
        slots = count_places(self.standings)
        while True:
            room = Room(self.standings)
            ticket = queue.first(now, reserved=not room.open, slots=slots)
            if ticket is None or self._gives_way(ticket, now):
                break
            call = ticket.item
            placement = self._place(call, room, slots)
            if placement is None:
                break
            queue.take(ticket)
            self._give(call, placement, now)
        self._publish_waiting()

    def look_again(self) -> None:
        """Another worker says that there may be room."""
        self.share.look_again()
        self.dispatch()

    def expire(self, now: float) -> None:
        """Turns away what has waited too long."""
        if not self.queue:
            return
        for rejection in self.queue.expired(now, slots=count_places(self.standings)):
            self.withdraw(rejection.ticket.item)
            rejection.ticket.item.reject(rejection)

    def leave_table(self, refusal: Refusal) -> None:
        """Requests at its replicas end in peace; those that wait, or come back to wait, will not be served."""
        self._gone = refusal
        self.turn_away(refusal)

    def turn_away(self, refusal: Refusal) -> None:
        """Nothing that waits will be served."""
        for ticket in self.queue.everything():
            self.withdraw(ticket.item)
            ticket.item.turn_away(refusal)

    # Reports.

    def load(self) -> ModelLoad:
        """For the report; starts a new peak."""
        totals = self.totals
        estimate = totals.output_tokens + sum(call.tokens_so_far() for call in self.calls)
        # An estimate may exceed the usage that settles it; the total must never fall.
        totals.output_tokens_reported = max(totals.output_tokens_reported, estimate)
        self.publish_counts()
        peak, self._peak = self._peak, len(self.calls) + len(self.queue)
        return ModelLoad(
            in_flight=len(self.calls),
            queued=len(self.queue),
            peak=max(peak, self._peak),
            arrivals_total=totals.arrivals,
            completed_total=totals.completed,
            failed_total=totals.failed,
            output_tokens_total=totals.output_tokens_reported,
            ttft_met_total=totals.objectives.ttft_met,
            ttft_missed_total=totals.objectives.ttft_missed,
            tpot_met_total=totals.objectives.tpot_met,
            tpot_missed_total=totals.objectives.tpot_missed,
        )

    def publish_counts(self) -> None:
        """So that the totals outlive this process, where it has others beside it."""
        if self._turns is not None:
            self.totals.publish(self.share)

    def forget(self, replica: Replica) -> None:
        """A replica has started anew: its cache is empty, and what was learnt of it is of another process."""
        self.router.leave(replica.standing)
        self.router.join(replica.standing)

    # Steps.

    def _find_place(self, call: Dispatchable) -> Placement | None:
        placement = self.router.place(self.standings, call.prompt, avoid=call.tried)
        if placement is None or is_ample(placement.standing, len(self.standings)):
            return placement
        return self._place(call, Room(self.standings), count_places(self.standings))

    def _place(self, call: Dispatchable, room: Room, slots: int) -> Placement | None:
        """A place that the request may have; the last ones are not for a key that has its share."""
        every = self.queue.may_use_reserve(call.ticket, slots)
        return self.router.place(room.every if every else room.open, call.prompt, avoid=call.tried)

    def _give(self, call: Dispatchable, placement: Placement, now: float) -> None:
        replica = self._by_slot[placement.standing.slot]
        self.router.take(placement, now)
        if call.prompt.blocks:
            self._bell.tell_of_cache(replica, call.prompt.blocks, now)
        replica.took(call, now, streamed=call.streams)
        self.calls.add(call)
        self._touch_peak()
        self._bell.mark_changed()
        call.assign(replica, placement, now)

    def _hold(self, call: Dispatchable, now: float) -> None:
        rejection = self.queue.offer(call.ticket, now, slots=count_places(self.standings))
        if rejection is not None:
            rejection.ticket.item.reject(rejection)
            if rejection.ticket is call.ticket:
                return
        self._wait_begins(now)

    def _wait_begins(self, now: float) -> None:
        if self.queue.wake_up_due(now):
            self._bell.report_now()
        self._touch_peak()
        self._bell.mark_changed()
        self.dispatch()
        if self.queue and self._turns is not None:
            self.share.look_again()  # published now: whoever freed room meanwhile may not have seen it
            self.dispatch()

    def _gives_way(self, ticket: Ticket[Any], now: float) -> bool:
        """Whether a request that waits in another worker comes first."""
        turns = self._turns
        if turns is None or turns.is_mine(waiting_rank(ticket.rank, ticket.arrived), now):
            return False
        self._look_in(YIELD_SECONDS)
        return True

    def _publish_waiting(self) -> None:
        if self._turns is None:
            return
        first = self.queue.first(monotonic(), reserved=False, slots=0) if self.queue else None
        self.share.publish_waiting(0 if first is None else waiting_rank(first.rank, first.arrived))
        if first is not None:
            self._look_in(LOOK_WHILE_WAITING_SECONDS)

    def _look_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._next_look is not None:
            if self._next_look.when() <= loop.time() + seconds:
                return
            self._next_look.cancel()
        self._next_look = loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._next_look = None
        self.look_again()

    def _touch_peak(self) -> None:
        self._peak = max(self._peak, len(self.calls) + len(self.queue))
