"""When silence is a hang: the pace of a replica's streams, learnt from their own events. Pure.

A living stream's silence has causes that the replica's other streams share (a long prompt is read between two
steps) or that pass (a stop string half seen). So two things must hold: the stream has been silent many times longer
than streams there ever are, and so has the whole replica, or this stream alone for several times as long again.
"""

from __future__ import annotations

from typing import Final

_FORGETTING: Final = 0.999
"""Of the longest silence, for each event: after 700 events half of it is left."""
_TIMES_THE_LONGEST: Final = 8.0
_TIMES_ALONE: Final = 4.0
_LEAST_SECONDS: Final = 2.0
_MOST_SECONDS: Final = 30.0


class Pace:
    """One replica's streams, after their first events."""

    __slots__ = ("_last", "_longest")

    def __init__(self) -> None:
        self._longest = _MOST_SECONDS / _TIMES_THE_LONGEST  # nothing is known: patience
        self._last = 0.0

    def saw(self, since: float, now: float) -> None:
        """An event of a stream whose event before it came at `since`; seconds of a monotonic clock."""
        self._longest = max(now - since, self._longest * _FORGETTING)
        self._last = now

    def patience(self) -> float:
        """Seconds of silence after which a stream of a silent replica hangs."""
        return min(max(_TIMES_THE_LONGEST * self._longest, _LEAST_SECONDS), _MOST_SECONDS)

    def is_hung(self, since: float, now: float) -> bool:
        """Whether a stream that was last heard at `since` has stopped for good."""
        silence, patience = now - since, self.patience()
        if silence < patience:
            return False
        return now - self._last >= patience or silence >= _TIMES_ALONE * patience
