"""How long bytes may have waited before the process looked at them: the part of its overhead that it cannot see. Pure.

The loop asks the kernel which sockets are readable, handles them one after another, runs its timers, and asks again.
What becomes readable meanwhile waits unseen. When the loop slept in between, it had nothing to handle, so nothing
waited but for what ran after the sleep; when it did not sleep, something may have waited since the last time that
it asked. Counting that longest wait never flatters. That the kernel let others run first stays unseen: to a
process it looks like sleep.
"""

from __future__ import annotations

from typing import Final

_SLEPT_SECONDS: Final = 50e-6
"""Of time in which the process did not run. Less may be the switch into the kernel and back."""


class ReadyWait:
    """Told when a round of handlers begins and ends: `now` is monotonic, `ran` the thread's own CPU time; seconds.

    Asking for CPU time is a system call, so it is told once a round: what ran beyond the round's own time ran between.
    """

    __slots__ = ("_began", "_ended", "_ran", "_round", "longest")

    def __init__(self) -> None:
        self._began = self._ended = self._ran = self._round = 0.0
        self.longest = 0.0
        """That bytes handled in this round may have waited before it."""

    def begin(self, now: float, ran: float) -> None:
        """The first handler of a round runs."""
        between, worked = now - self._ended, max(0.0, ran - self._ran - self._round)
        self.longest = worked if between - worked > _SLEPT_SECONDS else self._round + between
        self._began = now
        self._ran = ran

    def end(self, now: float) -> None:
        """All handlers of the round have run."""
        self._round = now - self._began
        self._ended = now
