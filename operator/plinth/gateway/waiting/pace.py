"""How fast replicas work off what waits: learnt from requests that have ended. Pure."""

from __future__ import annotations

from typing import Final

_KEEPS: Final = 0.98
"""What one ended request leaves of those before it: about the last 50 count."""
_KNOWN: Final = 8
"""Ended requests before anything is predicted."""


class Pace:
    """Seconds at a replica for each token of work.

    By Little's law, `slots` requests under way that each advance by one token in s seconds work off slots / s tokens
    a second. It needs no clock of its own, takes a new replica into account as soon as its slots are in use, and errs
    on the fast side (short answers end first; what runs already is left out): nothing is refused on a mere guess.
    """

    __slots__ = ("_ended", "_seconds", "_work")

    def __init__(self) -> None:
        self._seconds = 0.0
        self._work = 0.0
        self._ended = 0

    def observe(self, work: float, seconds: float) -> None:
        """A request of so much work took so long from dispatch to its end."""
        self._seconds = self._seconds * _KEEPS + seconds
        self._work = self._work * _KEEPS + work
        self._ended += 1

    def seconds_for(self, work: float, slots: int) -> float | None:
        """Seconds until so much work has been started; None while it is not known."""
        if self._ended < _KNOWN or slots <= 0 or self._work <= 0:
            return None
        return work * self._seconds / (self._work * slots)
