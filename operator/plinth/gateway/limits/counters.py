"""What has been used of one limit: a bucket for short windows, a sliding sum for long ones, slots for concurrency.

A request is counted in one after the other (`take`); where one has no room, those before it forget it (`untake`), so
a refused request costs nothing. Pure; `now` is seconds of a clock that never goes back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from math import inf
from typing import Final

from plinth.domain.access import Limit

LONGEST_BUCKET_SECONDS: Final = 60
"""Windows up to this long are buckets: room comes back steadily, so a refused client waits for its own share only.

A bucket lets through at most amount + amount/window * T in any T seconds. After an idle minute that can be nearly
twice the amount within one minute; within a day it would be twice a day's quota, hence the sliding sum."""
PARTS: Final = 60
"""A sliding sum forgets in steps of window/60: use holds its room at most that much (1.7%) too long, never less."""
SLOT_SECONDS: Final = 0.25
"""What a client is told to wait for a request of its own to end; nobody can know."""


class Counter(ABC):
    """What is used of one limit, in requests or tokens."""

    __slots__ = ("amount",)

    def __init__(self, amount: float) -> None:
        self.amount = amount

    @abstractmethod
    def take(self, cost: float, now: float) -> bool:
        """Counts the cost if it has room; False, and nothing is counted, if it has none."""

    @abstractmethod
    def untake(self, cost: float) -> None:
        """Takes back what was just taken, as if it had never been."""

    @abstractmethod
    def wait(self, cost: float, now: float) -> float:
        """Seconds until the cost has room: 0 when it has now, infinite when it never will."""

    @abstractmethod
    def add(self, cost: float, now: float) -> None:
        """Counts the cost, whether or not it has room: what has been used has been used."""

    @abstractmethod
    def give_back(self, amount: float, taken_at: float, now: float) -> None:
        """Takes back what was counted at `taken_at` and not used."""

    @abstractmethod
    def used(self, now: float) -> float:
        """What counts now."""

    @abstractmethod
    def empty_after(self, now: float) -> float:
        """Seconds until nothing counts any more, if nothing is added."""


class Bucket(Counter):
    """A leaky bucket as a meter, the same law as GCRA (ITU-T I.371): what is in it drains at amount/window a second.

    What is given back late can let through once more what the full bucket would have lost meanwhile; the excess
    is bounded by what was reserved and not used.
    """

    __slots__ = ("_at", "_level", "_window")

    def __init__(self, amount: float, window: float) -> None:
        super().__init__(amount)
        self._window = window
        self._level = 0.0
        self._at = 0.0

    def take(self, cost: float, now: float) -> bool:
        """Fills the bucket, up to its rim."""
        amount = self.amount
        level = self._level - (now - self._at) * amount / self._window
        level = cost + level if level > 0.0 else cost
        if level > amount:
            return False
        self._level = level
        self._at = now
        return True

    def untake(self, cost: float) -> None:
        """As above."""
        self._level -= cost

    def used(self, now: float) -> float:
        """What has not drained yet."""
        level = self._level - (now - self._at) * self.amount / self._window
        return max(0.0, level)

    def wait(self, cost: float, now: float) -> float:
        """The time that the excess takes to drain."""
        amount = self.amount
        level = self._level - (now - self._at) * amount / self._window
        excess = cost + level - amount if level > 0.0 else cost - amount
        if excess <= 0.0:
            return 0.0
        return inf if cost > amount else excess * self._window / amount

    def add(self, cost: float, now: float) -> None:
        """Fills the bucket, beyond its rim if need be."""
        level = self._level - (now - self._at) * self.amount / self._window
        self._level = cost + level if level > 0.0 else cost
        self._at = now

    def give_back(self, amount: float, taken_at: float, now: float) -> None:
        """Empties it, unless all of that time's use has drained already."""
        if now - taken_at < self._window:
            level = self._level - (now - self._at) * self.amount / self._window - amount
            self._level = max(0.0, level)
            self._at = now

    def empty_after(self, now: float) -> float:
        """The time that the rest takes to drain."""
        used = self.used(now)
        return used * self._window / self.amount if used else 0.0


class Part:
    """What was used in one step of a sliding sum."""

    __slots__ = ("number", "used")

    def __init__(self, number: float, used: float) -> None:
        self.number = number
        self.used = used


class Window(Counter):
    """A sliding sum: in no span as long as the window is more let through than the amount."""

    __slots__ = ("_newest", "_newest_ends", "_older", "_sum", "_width", "_window")

    def __init__(self, amount: float, window: float) -> None:
        super().__init__(amount)
        self._window = window
        self._width = window / PARTS
        self._newest = Part(-inf, 0.0)
        self._newest_ends = -inf
        self._older: deque[Part] = deque()
        """The oldest first; parts without use are not kept."""
        self._sum = 0.0

    def take(self, cost: float, now: float) -> bool:
        """Counts in the newest part. What is too old was forgotten when that one began."""
        if now >= self._newest_ends:
            self._begin(now)
        if self._sum + cost > self.amount:
            return False
        self._newest.used += cost
        self._sum += cost
        return True

    def untake(self, cost: float) -> None:
        """As above."""
        self._newest.used -= cost
        self._sum -= cost

    def used(self, now: float) -> float:
        """The sum of all parts that lie, wholly or in part, within the window before `now`."""
        if now >= self._newest_ends:
            self._begin(now)
        return self._sum

    def wait(self, cost: float, now: float) -> float:
        """The time until enough of the oldest parts are forgotten."""
        excess = self.used(now) + cost - self.amount
        if excess <= 0:
            return 0.0
        if cost > self.amount:
            return inf
        for part in self._older:
            excess -= part.used
            if excess <= 0:
                return self._forgotten_at(part) - now
        return self._forgotten_at(self._newest) - now if self._newest.used else self._window

    def add(self, cost: float, now: float) -> None:
        """Counts in the newest part."""
        if now >= self._newest_ends:
            self._begin(now)
        self._newest.used += cost
        self._sum += cost

    def give_back(self, amount: float, taken_at: float, now: float) -> None:
        """Taken from the oldest parts, whichever it was counted in: later sums are then too high, never too low."""
        if now - taken_at >= self._window:
            return
        self.used(now)
        older = self._older
        while older:
            oldest = older[0]
            if oldest.used > amount:
                oldest.used -= amount
                self._sum -= amount
                return
            amount -= oldest.used
            self._sum -= oldest.used
            older.popleft()
        amount = min(amount, self._newest.used)
        self._newest.used -= amount
        self._sum -= amount

    def empty_after(self, now: float) -> float:
        """Until the newest part is forgotten."""
        if not self.used(now):
            return 0.0
        return self._forgotten_at(self._newest if self._newest.used else self._older[-1]) - now

    def _begin(self, now: float) -> None:
        """A new part is the newest from now on, and those that lie before the window are forgotten."""
        older, number = self._older, now // self._width
        if self._newest.used:
            older.append(self._newest)
        while older and older[0].number < number - PARTS:
            self._sum -= older.popleft().used
        if not older:
            self._sum = 0.0
        self._newest = Part(number, 0.0)
        self._newest_ends = (number + 1) * self._width

    def _forgotten_at(self, part: Part) -> float:
        return (part.number + PARTS + 1) * self._width


class Slots(Counter):
    """Requests under way."""

    __slots__ = ("_under_way",)

    def __init__(self, amount: float) -> None:
        super().__init__(amount)
        self._under_way = 0.0

    def take(self, cost: float, now: float) -> bool:  # noqa: ARG002 - slots know no time
        """One more, if it may be."""
        if self._under_way + cost > self.amount:
            return False
        self._under_way += cost
        return True

    def untake(self, cost: float) -> None:
        """As above."""
        self._under_way -= cost

    def used(self, now: float) -> float:  # noqa: ARG002 - as above
        """Requests under way."""
        return self._under_way

    def wait(self, cost: float, now: float) -> float:  # noqa: ARG002 - as above
        """A guess where there is no room."""
        if self._under_way + cost <= self.amount:
            return 0.0
        return SLOT_SECONDS if cost <= self.amount else inf

    def add(self, cost: float, now: float) -> None:  # noqa: ARG002 - as above
        """One more."""
        self._under_way += cost

    def give_back(self, amount: float, taken_at: float, now: float) -> None:  # noqa: ARG002 - as above
        """One has ended."""
        self._under_way = max(0.0, self._under_way - amount)

    def empty_after(self, now: float) -> float:  # noqa: ARG002 - as above
        """A guess, as in `wait`."""
        return SLOT_SECONDS if self._under_way else 0.0


def make_counter(limit: Limit, amount: float) -> Counter:
    """The counter for a limit, with an amount of its own: a share, where several gateways count apart."""
    if limit.dimension == "concurrency":
        return Slots(amount)
    if limit.window_seconds <= LONGEST_BUCKET_SECONDS:
        return Bucket(amount, limit.window_seconds)
    return Window(amount, limit.window_seconds)
