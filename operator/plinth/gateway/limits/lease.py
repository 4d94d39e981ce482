"""What one gateway holds of a limit that several share: units the shared counters have counted before they are used.

A lease stands in a Counter's place. Nothing is let through that the shared counters have not granted, so gateways
together stay within the limit without a question for each request. The bound: from idle no more is let through than
the limit itself. In any span of T seconds it is what the limit admits in T + 0.2 s, since a unit is used, or given
back, at most two reports after it was counted; far from the limit 5% of it may be kept for a second or two. Beyond that come
only tokens that nobody foresaw (they are owed, and paid first), and what is let through while Redis is away. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from plinth.domain.access import Limit
from plinth.gateway.limits.counters import SLOT_SECONDS, Bucket, Counter, Slots, Window, make_counter

ASK: Final = -1.0
"""In the place of seconds: only the shared counters know."""
DENIED: Final = -2.0
"""In the place of seconds: they cannot be reached, and the policy lets nobody through unseen."""
SHORTEST_REFUSAL_SECONDS: Final = 0.02
"""Near its limit a gateway asks for an account at most 50 times a second, not for each request."""
LONGEST_REFUSAL_SECONDS: Final = 0.1
"""Then it asks again, however long the wait was said to be: other gateways give back what they did not use."""

HOLD_SECONDS: Final = 3
"""Slots of a gateway that reports no more are free after this time."""
FEWER_GATEWAYS_SECONDS: Final = 10.0
"""Until gateways that were seen no more are forgotten, and the others' shares grow."""

REPORT_SECONDS: Final = 0.1
"""Between reports near the limit: what is in stock is missing elsewhere."""
CALM_SECONDS: Final = 1.0
"""Between reports far from it, as long as the stock lasts: it is made to last so long."""
SPARE_SHARE: Final = 0.05
"""Of the limit, which all gateways together may hold for that; with so much left the limit is near."""


@dataclass(slots=True)
class Backend:
    """What the gateway knows of the shared counters; one for all leases."""

    away: bool = True
    """They cannot be reached, or not in time."""
    gateways: int = 1
    """That share them, this one included."""
    absences: int = 0
    """How often they went away; for metrics."""
    counted_at: float = 0.0
    """When so many were last seen."""

    def count_gateways(self, seen: int, now: float) -> None:
        """More count at once; fewer only when it lasts, since counters that were lost begin to count at one."""
        if seen >= self.gateways or now - self.counted_at > FEWER_GATEWAYS_SECONDS:
            self.gateways = max(1, seen)
            self.counted_at = now


@dataclass(frozen=True, slots=True)
class Report:
    """What one lease tells and asks, in units of its limit."""

    kind: str
    """`bucket`, `window` or `slots`: how the shared counter counts."""
    amount: int
    window: int
    settle: float
    """To be counted (positive) or taken back, whatever room there is; of slots all that are held."""
    own: float
    """All that counts of this gateway: where the shared counters have lost it, it is counted anew."""
    need: float
    """Without which the request cannot go on."""
    want: float
    """What would be welcome, the need included."""


class Lease(Counter):
    """Requests or tokens. `stock` is what may be used; negative, it is owed to the shared counters."""

    __slots__ = (
        "_backend",
        "_far",
        "_kind",
        "_lately",
        "_least",
        "_lives_alone",
        "_own",
        "_refused_cost",
        "_refused_until",
        "_reported_at",
        "_room_at",
        "_seen_at",
        "_seen_used",
        "_uncounted",
        "_window",
        "asked",
        "name",
        "stock",
        "tenant",
    )

    def __init__(self, name: str, limit: Limit, backend: Backend, *, tenant: str, lives_alone: bool) -> None:
        self.name = name
        self.tenant = tenant
        self.asked = False
        """A report is on its way; the next one waits for its answer, since each builds on the last."""
        super().__init__(float(limit.amount))
        self.stock = 0.0
        self._window = limit.window_seconds
        self._backend = backend
        self._lives_alone = lives_alone
        self._own = make_counter(limit, limit.amount)
        self._uncounted = 0.0
        """Used (negative: given back) and not yet counted in `_own`, which few ask for."""
        self._kind = {Bucket: "bucket", Window: "window", Slots: "slots"}[type(self._own)]
        self._lately = 0.0
        """Used since the last report: the pace of the time until the next."""
        self._least = 0.0
        """The smallest stock since the last report: so many slots were not needed."""
        self._refused_cost = inf
        self._refused_until = 0.0
        self._room_at = 0.0
        self._seen_used = 0.0
        self._far = False
        """There is enough for each gateway to keep something to spare."""
        self._reported_at = 0.0
        self._seen_at = 0.0

    def take(self, cost: float, now: float) -> bool:
        """Uses what is in stock; what is not there only where the shared counters are not needed."""
        if self.stock < cost and self.wait(cost, now):
            return False
        self.add(cost, now)
        return True

    def untake(self, cost: float) -> None:
        """As above."""
        self.stock += cost
        self._lately -= cost
        self._uncounted -= cost

    def wait(self, cost: float, now: float) -> float:
        """Seconds as a Counter says them, ASK or DENIED."""
        if self.stock >= cost:
            return 0.0
        if cost > self.amount:
            return inf
        if self._backend.away:
            return self._wait_alone(cost, now) if self._lives_alone else DENIED
        if now < self._refused_until and cost >= self._refused_cost:
            return self._room_at - now
        return ASK

    def add(self, cost: float, now: float) -> None:  # noqa: ARG002 - counted at the next report
        """Uses what is in stock, or owes it."""
        self.stock -= cost
        if self.stock < self._least:  # noqa: PLR1730 - a comparison costs half of what `min` does
            self._least = self.stock
        self._lately += cost
        self._uncounted += cost

    def give_back(self, amount: float, taken_at: float, now: float) -> None:
        """Back into stock; the next report hands on what is not needed."""
        if self._kind == "slots" or now - taken_at < self._window:
            self.stock += amount
            self._uncounted -= amount

    def used(self, now: float) -> float:
        """What all gateways used, as far as the last answer told; what this one has in stock is still to be had."""
        return min(self.amount, max(0.0, self._guess(now)))

    def empty_after(self, now: float) -> float:
        """At the pace of a steady drain."""
        return self.used(now) / self.amount * self._window if self.amount else 0.0

    def report(self, need: float, wanted: float, now: float) -> Report:
        """What to tell now. `need` is the cost of the first request that waits, `wanted` of all that do.

        Rates keep in stock what is used until the next report, slots what was needed at once; the rest goes back,
        but for a little spare far from the limit.
        """
        self._take_share(now)
        under_way = self._own.used(now)
        debt, stock = max(0.0, -self.stock), max(0.0, self.stock)
        elapsed = max(REPORT_SECONDS, now - self._reported_at)
        spare = self._spare(elapsed)
        if self._kind == "slots":
            self.stock = keep = min(stock, max(spare, stock - max(0.0, self._least)))
            settle = under_way + keep
            if self._runs_out():
                keep = max(keep, min(spare, 2 * stock + 1))
        else:
            keep = max(spare, self._lately * REPORT_SECONDS // elapsed)
            self.stock = min(keep, stock)
            settle = debt - (stock - self.stock)
        self._reported_at = now
        self._lately = 0.0
        self._least = self.stock
        self.asked = True
        return Report(
            kind=self._kind,
            amount=int(self.amount),
            window=self._window,
            settle=settle,
            own=min(self.amount, under_way) + self.stock,
            need=max(0.0, need - self.stock),
            want=max(0.0, max(wanted, keep) - self.stock),
        )

    def learn(self, granted: float, used: float, wait: float, *, need: float, now: float) -> None:
        """Takes the answer to a report in. `need` is the cost that had no room for `wait` seconds, if it is not 0."""
        self.asked = False
        self.stock += granted
        self._seen_used = used
        self._seen_at = now
        spare = self.amount * SPARE_SHARE
        self._far = used <= self.amount - spare and spare >= self._backend.gateways
        self._least = min(self._least + granted, self.stock)
        if wait > 0.0:
            self._refused_cost = need
            self._refused_until = now + min(LONGEST_REFUSAL_SECONDS, max(wait, SHORTEST_REFUSAL_SECONDS))
            self._room_at = max(now + wait, self._refused_until)

    def is_due(self, now: float) -> bool:
        """Near the limit always; far from it when the stock will soon be used up, or the last report is old."""
        return not self.asked and (
            not self._far or self._runs_out() or now - self._reported_at >= CALM_SECONDS
        )

    def make_due(self) -> None:
        """The next report must not wait: what was told may have been lost."""
        self._far = False

    def is_idle(self, now: float) -> bool:
        """Nothing is held and nothing owed: the next report can wait until there is some use."""
        return not self.stock and not (self._kind == "slots" and self._count(now))

    def counts(self, now: float) -> bool:
        """This gateway's use has not been forgotten yet."""
        return bool(self.stock or self._count(now))

    def _runs_out(self) -> bool:
        """Slots come back when their requests end: only that all were in use tells that there are too few."""
        return self._least <= 0.0 if self._kind == "slots" else self.stock < self._lately

    def _spare(self, elapsed: float) -> float:
        """Units for the time until the next report far from the limit, at the pace of the last one."""
        if not self._far:
            return 0.0
        wanted = self._lately * max(1.0, CALM_SECONDS / elapsed)
        return min(wanted, self.amount * SPARE_SHARE / self._backend.gateways) // 1

    def _wait_alone(self, cost: float, now: float) -> float:
        """By this gateway's share, and by what the shared counters last said, as far as that can still hold.

        Without the latter each short absence would let every share through that others had used up. A request
        that is larger than the share has its turn when the rest is used up.
        """
        self._take_share(now)
        wait = self._own.wait(min(cost, self._own.amount), now)
        excess = self._guess(now) + cost - self.amount
        if excess <= 0.0:
            return wait
        if self._kind == "slots":
            return max(wait, SLOT_SECONDS) if now - self._seen_at < HOLD_SECONDS else wait
        return max(wait, excess * self._window / self.amount)

    def _guess(self, now: float) -> float:
        """What counts of all gateways' use: what was last told, less a steady drain, more what is owed here."""
        drained = (now - self._seen_at) * self.amount / self._window if self._window else 0.0
        return max(0.0, self._seen_used - drained) - self.stock

    def _count(self, now: float) -> float:
        """What counts of this gateway's use, all requests since the last time at once: too late rather than too early."""
        change, self._uncounted = self._uncounted, 0.0
        if change > 0.0:
            self._own.add(change, now)
        elif change < 0.0:
            self._own.give_back(-change, now, now)
        return self._own.used(now)

    def _take_share(self, now: float) -> None:
        self._own.amount = max(1.0, self.amount / self._backend.gateways)
        # A gateway that serves more than its share must not owe more than the whole limit.
        excess = self._count(now) - self.amount
        if excess > 0.0 and self._kind != "slots":
            self._own.give_back(excess, now, now)
