"""The queue of one model: who is next, who must go, and when it is worth to come back. Pure; time is an argument.

Order: the band; in the band the key that was served least (`band`); of its requests the earliest deadline. Two rules
bend this a little. *Ageing*: what has waited beyond its band's patience gets one turn in eight, so that a flood of
urgent requests never stops the others. *Reserve* (`places`): the last free places go only to keys below their share,
so that a key which comes back need not wait until one of a busy key's requests ends; a key that is alone gets every
place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Generic

from plinth.domain.access import BANDS
from plinth.gateway.waiting.band import BandQueue
from plinth.gateway.waiting.pace import Pace
from plinth.gateway.waiting.ticket import OUTPUT_WEIGHT, T, Ticket

PATIENCE: Final[tuple[float, ...]] = (math.inf, 5.0, 30.0, 120.0)
"""Seconds by band; the most urgent is served first anyway. SMG promotes what starves after the same times."""
AGED_TURN: Final = 8
"""Every so many turns the most overdue request is next."""
_MARGIN: Final = 0.8
"""A request is refused only when it would miss its deadline even if work went a quarter faster than predicted."""
_WAKE_SECONDS: Final = 1.0
_UNKNOWN_RETRY: Final = 2.0
_LONGEST_RETRY: Final = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitingLimits:
    """How much of one model may wait."""

    requests: int = 16_384
    bytes: int = 64 * 1024 * 1024
    """Of bodies."""


class Reason(Enum):
    """Why a request does not wait, or no more."""

    FULL = auto()
    """The bound is reached, and no key has more waiting than its own."""
    LATE = auto()
    """It could not leave the queue before its deadline."""
    EXPIRED = auto()
    """Its deadline is past."""


class Rejection(Generic[T]):
    """A ticket that is refused: the new one, or one that gave way to it."""

    __slots__ = ("reason", "retry_seconds", "ticket")

    def __init__(self, ticket: Ticket[T], reason: Reason, retry_seconds: float) -> None:
        self.ticket = ticket
        self.reason = reason
        self.retry_seconds = retry_seconds
        """After so long the same request would probably be served."""


class WaitingQueue(Generic[T]):
    """Bounded; gives turns by band, fairness and deadline."""

    __slots__ = ("_bands", "_bytes", "_count", "_limits", "_pace", "_turns", "_woken")

    def __init__(self, limits: WaitingLimits) -> None:
        self._limits = limits
        self._bands: tuple[BandQueue[T], ...] = tuple(BandQueue[T]() for _ in BANDS)
        self._pace = Pace()
        self._count = 0
        self._bytes = 0
        self._turns = 0
        self._woken = -math.inf

    def __len__(self) -> int:
        return self._count

    # Coming.

    def pass_by(self, ticket: Ticket[T]) -> None:
        """The fast path, where nothing waits: the request goes to a replica at once, and its key is charged for it."""
        self._bands[ticket.rank].pass_by(ticket)

    def offer(self, ticket: Ticket[T], now: float, *, slots: int) -> Rejection[T] | None:
        """Takes a request in. What is handed back must be refused: this one, or another that gave way to it.

        `slots` are the requests that replicas work on at once, with those of replicas that start.
        """
        wait = self._seconds_beyond(ticket, ticket.deadline - now, slots)
        if wait is not None:
            return Rejection(ticket, Reason.LATE, _retry(wait - (ticket.deadline - now)))
        if not self._is_beyond(ticket):
            self._push(ticket)
            return None
        leaving = self._least_entitled(ticket)
        if leaving is not ticket:
            self.discard(leaving)
            self._push(ticket)
        return Rejection(leaving, Reason.FULL, self._retry_when_full(slots))

    def put_back(self, ticket: Ticket[T]) -> None:
        """A request that a replica did not answer waits again, at its old place and beyond any bound."""
        self._bands[ticket.rank].give_back(ticket)
        self._push(ticket)

    def wake_up_due(self, now: float) -> bool:
        """Asked after each `offer`: whether to tell the controller at once that requests wait.

        True for the first to wait, and not again within a second: a thousand requests for a model that is scaled to
        zero wake it once.
        """
        if self._count != 1 or now - self._woken < _WAKE_SECONDS:
            return False
        self._woken = now
        return True

    # Going.

    def first(self, now: float, *, reserved: bool, slots: int) -> Ticket[T] | None:
        """The request whose turn it is; it stays until taken or discarded.

        None when nothing waits, or when all places left are `reserved` and every key that waits has its share of all
        `slots`.
        """
        if not self._count:
            return None
        if self._turns % AGED_TURN == AGED_TURN - 1 and not reserved:
            aged = self._most_overdue(now)
            if aged is not None:
                return aged
        share = self._share(slots) if reserved else math.inf
        for band in self._bands:
            if band.waiting:
                return band.first(share)
        return None

    def may_use_reserve(self, ticket: Ticket[T], slots: int) -> bool:
        """Whether a request's key is below its share of all `slots`, so that every place is open to it."""
        return self._bands[ticket.rank].is_below(ticket.key, self._share(slots))

    def take(self, ticket: Ticket[T]) -> None:
        """A waiting request goes to a replica; its key is charged for it."""
        self._bands[ticket.rank].take(ticket)
        self._turns += 1
        self._count -= 1
        self._bytes -= ticket.body_bytes

    def settle(self, ticket: Ticket[T], *, prompt_tokens: int, output_tokens: int, seconds: float) -> None:
        """A request has left its replica for good, `seconds` after its dispatch: the charge becomes what it cost.

        Without output it had failed or was cut off: nothing is learnt of it.
        """
        self._bands[ticket.rank].settle(ticket, prompt_tokens, output_tokens)
        if output_tokens:
            self._pace.observe(prompt_tokens + OUTPUT_WEIGHT * output_tokens, seconds)

    def discard(self, ticket: Ticket[T]) -> bool:
        """Takes a request out, wherever it stands, without a charge; False when it was not waiting."""
        if not self._bands[ticket.rank].leave(ticket):
            return False
        self._count -= 1
        self._bytes -= ticket.body_bytes
        return True

    def expired(self, now: float, *, slots: int) -> list[Rejection[T]]:
        """Those whose deadline is past; they stay until discarded."""
        late = [item for band in self._bands for item in band.waiting.values() if item.deadline <= now]
        if not late:
            return []
        retry = _retry(self._pace.seconds_for(self._waiting_work(), slots))
        return [Rejection(item, Reason.EXPIRED, retry) for item in late]

    def everything(self) -> list[Ticket[T]]:
        """All that wait, band by band in the order they came."""
        return [ticket for band in self._bands for ticket in band.waiting.values()]

    # Looking ahead.

    def predict(self, ticket: Ticket[T], slots: int) -> float | None:
        """Seconds that a new request would wait if nothing else came; None while nothing is learnt."""
        if not self._count:
            return 0.0
        before = sum(band.waiting_work for band in self._bands[: ticket.rank])
        return self._pace.seconds_for(before + self._bands[ticket.rank].work_before(ticket), slots)

    # Steps.

    def _push(self, ticket: Ticket[T]) -> None:
        self._bands[ticket.rank].join(ticket)
        self._count += 1
        self._bytes += ticket.body_bytes

    def _share(self, slots: int) -> float:
        """Requests at replicas for each unit of weight, below which a key may use the reserve.

        All places divided among the keys that have anything here, or more where most of what runs is of a few: as many
        as the key of the average request has. Else a key whose two requests happen to come together would wait like
        the one that has a dozen.
        """
        weight = running = 0
        crowding = 0.0
        for band in self._bands:
            weight += band.busy_weight
            running += band.running
            crowding += band.crowding
        return max(slots / max(1, weight), crowding / max(1, running))

    def _seconds_beyond(self, ticket: Ticket[T], remaining: float, slots: int) -> float | None:
        """The predicted wait, if that is too long even with the margin. All that waits bounds it from above."""
        most = self._pace.seconds_for(self._waiting_work(), slots)
        if most is None or most * _MARGIN <= remaining:
            return None
        wait = self.predict(ticket, slots)
        return wait if wait is not None and wait * _MARGIN > remaining else None

    def _is_beyond(self, ticket: Ticket[T]) -> bool:
        return self._count >= self._limits.requests or self._bytes + ticket.body_bytes > self._limits.bytes

    def _least_entitled(self, ticket: Ticket[T]) -> Ticket[T]:
        """Who gives way to a new request: the last of the key that has the most waiting in the least urgent band."""
        for rank in range(len(self._bands) - 1, ticket.rank - 1, -1):
            longest = self._bands[rank].longest()
            if longest is None:
                continue
            own = (self._bands[rank].waiting_of(ticket.key) + 1) / ticket.weight
            if rank == ticket.rank and longest.waiting / longest.weight <= own:
                return ticket
            last: Ticket[T] = longest.last()
            return last if self._has_bytes_for(ticket, last) else ticket
        return ticket

    def _has_bytes_for(self, ticket: Ticket[T], instead: Ticket[T]) -> bool:
        return self._bytes - instead.body_bytes + ticket.body_bytes <= self._limits.bytes

    def _most_overdue(self, now: float) -> Ticket[T] | None:
        """Of each band's oldest, the one that has waited longest for its patience."""
        found, most = None, 1.0
        for patience, band in zip(PATIENCE, self._bands, strict=True):
            oldest = next(iter(band.waiting.values()), None)
            if oldest is not None and (now - oldest.arrived) / patience >= most:
                found, most = oldest, (now - oldest.arrived) / patience
        return found

    def _retry_when_full(self, slots: int) -> float:
        """Until half of the queue is worked off: at the first free place all who were refused would be back."""
        return _retry(self._pace.seconds_for(self._waiting_work() / 2, slots))

    def _waiting_work(self) -> float:
        return sum(band.waiting_work for band in self._bands)


def _retry(seconds: float | None) -> float:
    return _UNKNOWN_RETRY if seconds is None else min(max(1.0, seconds), _LONGEST_RETRY)
