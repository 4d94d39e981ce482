"""What the pools that a model may run on offer it, and in which order they are taken: goals first, then money.

    target on each pool -> Offer -> rank -> Ranking: its first is the target

A pool that meets the objectives goes before one whose speed nobody can tell, and that before one that misses them.
Of equals in this the one that has room is taken, so that a full pool gives way to the next. Then the least money for
what is delivered decides; where objectives are missed, money times the square of the miss, as between shapes. A pool
without a price counts as free; then fewer accelerators decide.

What runs stays where it is for small gains, and until there is room: a change of pool starts every replica anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from plinth.domain.sizing.goals import WHOLE, Promise

WORTH_PERCENT = 130
"""What runs moves for money only if it costs so much of what it would elsewhere; with fewer, prices that are edited or
predictions that are refined would send replicas to and fro."""
NEARER_PERCENT = 110
"""And for goals only if it misses them by so much more than it would elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One pool's."""

    pool: str
    shape: str
    accelerators: int
    promise: Promise | None
    """None where nobody can tell how fast it is."""
    closing: bool = False
    """The pool is being deleted."""
    home: bool = False
    """The model runs there."""
    room: bool = True
    """There is room for as many replicas as it needs."""

    @property
    def dearness(self) -> int:
        """Money for what is delivered, dearer by the square of the miss: 1000 permille are none."""
        if self.promise is None:
            return 0
        return self.promise.price * self.promise.worst**2 // WHOLE**2

    @property
    def _class(self) -> int:
        if self.promise is None:
            return 1
        return 2 if self.promise.misses else 0

    @property
    def merit(self) -> tuple[bool, int, bool, int, int, int, str]:
        """The lowest is best, whatever room there is."""
        return self._merit(full=False)

    @property
    def merit_now(self) -> tuple[bool, int, bool, int, int, int, str]:
        """The lowest is best, as to what could begin there now."""
        return self._merit(full=not self.room)

    def _merit(self, *, full: bool) -> tuple[bool, int, bool, int, int, int, str]:
        worst = self.promise.worst if self.promise else WHOLE
        return (self.closing, self._class, full, self.dearness, worst, self.accelerators, self.pool)

    def describe(self) -> str:
        """`TP2, 0.9271 for a million tokens`."""
        promise = self.promise
        if promise is None:
            return f"{self.shape}, how fast nobody can tell"
        parts = [self.shape, *(each.sentence for each in promise.misses)]
        if promise.price:
            parts.append(f"{promise.cost_per_million_tokens} for a million tokens")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Offers in order, the one that is taken first."""

    offers: tuple[Offer, ...]
    waits: bool = False
    """The model would move as soon as another pool has room for it."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """Why this pool, and what the others offer; none where there was no choice."""
        first, *rest = self.offers
        if not rest:
            return ()
        why = "the best offer"
        if self.waits:
            why = "the model runs there, until a better one has room"
        elif any(each.merit < first.merit for each in rest):
            why = "the model runs there, and no other is clearly better"
        # Only while it runs nowhere: what runs is not told anew whenever others come and go.
        full = ", full at present" if not first.home else ""
        others = (f"not pool {each.pool}: {each.describe()}{'' if each.room else full}" for each in rest)
        return (f"pool {first.pool} ({why}): {first.describe()}", *others)


def rank(offers: Iterable[Offer], *, trusted: bool) -> Ranking:
    """The best first. `trusted`: nothing was measured that says otherwise than what the offers were computed by."""
    ranked = sorted(offers, key=lambda each: each.merit)
    home = next((each for each in ranked if each.home), None)
    if home is None:
        return Ranking(offers=tuple(sorted(ranked, key=lambda each: each.merit_now)))
    better = [each for each in ranked if each is not home and _is_worth_moving(home, each, trusted=trusted)]
    first = next((each for each in better if each.room), home)
    others = (each for each in ranked if each is not first)
    return Ranking(offers=(first, *others), waits=bool(better) and first is home)


def _is_worth_moving(home: Offer, best: Offer, *, trusted: bool) -> bool:
    # Only to what is better on the whole, so that no chain of moves leads back.
    if home.closing or best.merit > home.merit:
        return home.closing and not best.closing
    if home.promise is None or best.promise is None:
        return False
    if home.promise.worst * 100 > best.promise.worst * NEARER_PERCENT:
        return True
    # A model that ran otherwise than computed may do so elsewhere: nobody knows, so it would come and go.
    return trusted and home.dearness * 100 > best.dearness * WORTH_PERCENT
