"""How many attempts beyond the first may be made: keeps failures from multiplying the load that caused them. Pure.

The rule is Finagle's RetryBudget: each request pays in a share of an attempt, each repetition takes a whole one out,
and a few a second are free so that a quiet gateway repeats too. A stream's first continuation is not charged:
when a replica dies, all its streams move at once, and there are no more of them than it served.
"""

from __future__ import annotations

from typing import Final

_SHARE: Final = 0.2
"""Repetitions for each request: load grows by a fifth at most."""
_FREE_PER_SECOND: Final = 10.0
_SECONDS_SAVED: Final = 10.0
"""Free repetitions of so many seconds may be saved up; as many again may be paid in."""


class RepetitionBudget:
    """One model's."""

    __slots__ = ("_balance", "_paid_until")

    def __init__(self, now: float) -> None:
        self._balance = _FREE_PER_SECOND * _SECONDS_SAVED
        self._paid_until = now

    def pay_in(self) -> None:
        """A new request came."""
        self._balance = min(self._balance + _SHARE, 2 * _FREE_PER_SECOND * _SECONDS_SAVED)

    def take(self, now: float) -> bool:
        """Whether one more repetition may be made, at `now` in seconds of a monotonic clock."""
        saved = _FREE_PER_SECOND * _SECONDS_SAVED
        if self._balance < saved:
            self._balance = min(saved, self._balance + _FREE_PER_SECOND * (now - self._paid_until))
        self._paid_until = now
        if self._balance < 1:
            return False
        self._balance -= 1
        return True
