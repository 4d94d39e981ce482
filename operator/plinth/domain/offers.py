"""What the pools that a model may run on offer it, and in which order they are taken: goals first, then money.

    target on each pool -> Offer -> rank -> the first is the target, the others are where else it could go

A pool that meets the objectives goes before one whose speed nobody can tell, and that before one that misses them.
Among those that meet them the least money for what is delivered decides; among those that miss them, money times the
square of the miss, as between shapes. A pool without a price counts as free; then fewer accelerators decide.

What runs stays where it is for small gains: a change of pool starts every replica anew.
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
    def order(self) -> tuple[bool, int, int, int, int, str]:
        """The lowest is best."""
        worst = self.promise.worst if self.promise else WHOLE
        return (self.closing, self._class, self.dearness, worst, self.accelerators, self.pool)

    def describe(self) -> str:
        """`TP2, 0.9271 for a million tokens`."""
        promise = self.promise
        if promise is None:
            return f"{self.shape}, how fast nobody can tell"
        parts = [self.shape, *(each.sentence for each in promise.misses)]
        if promise.price:
            parts.append(f"{promise.cost_per_million_tokens} for a million tokens")
        return ", ".join(parts)


def rank(offers: Iterable[Offer], *, trusted: bool) -> list[Offer]:
    """The best first. `trusted`: nothing was measured that says otherwise than what the offers were computed by."""
    ranked = sorted(offers, key=lambda each: each.order)
    home = next((each for each in ranked if each.home), None)
    if home is None or home is ranked[0] or _is_worth_moving(home, ranked[0], trusted=trusted):
        return ranked
    return [home, *(each for each in ranked if each is not home)]


def _is_worth_moving(home: Offer, best: Offer, *, trusted: bool) -> bool:
    if home.closing:
        return True
    if home.promise is None or best.promise is None:
        return False
    if home.promise.worst * 100 > best.promise.worst * NEARER_PERCENT:
        return True
    # A model that ran otherwise than computed may do so elsewhere: nobody knows, so it would come and go.
    return trusted and home.dearness * 100 > best.dearness * WORTH_PERCENT


def describe_ranking(ranked: list[Offer]) -> tuple[str, ...]:
    """Why this pool, and what the others offer."""
    first, rest = ranked[0], ranked[1:]
    better = any(each.order < first.order for each in rest)
    why = "the model runs there, and no other is clearly better" if better else "the best offer"
    others = (f"not pool {each.pool}: {each.describe()}" for each in rest)
    return (f"pool {first.pool} ({why}): {first.describe()}", *others)
