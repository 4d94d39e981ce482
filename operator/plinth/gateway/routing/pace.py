"""How fast one replica reads prompts and writes tokens, learnt from its answers. Pure.

Nothing is asked of the engine: what the gateway sent, and when the first byte came, say enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

FIRST_RATE: Final = 8000.0
"""Prompt tokens a second supposed of a replica that has not answered yet, where its peers have not either."""
IN_FLIGHT_SECONDS: Final = 0.002
"""What decoding one request beside a prompt adds to the prompt's time to first token."""
_KEEP: Final = 1 - 1 / 32
"""Weight of the past at each new sample: some thirty answers are remembered."""
_PRIOR_SECONDS: Final = 0.25
"""How much reading time the supposed rate counts for: a few prompts outweigh it."""
TELLING_ANSWERS: Final = 16
"""First bytes before a replica's own rate counts against that of its kind."""
NOISE: Final = 1.3
"""Equal replicas were seen to differ by a fifth in what is learnt of them. A prompt of 40,000 tokens would wait half a
second behind others for such a difference, or be read anew beside its cache: on the Mooncake synthetic trace that cost
two points of TTFT below 2 s at its plain speed."""
_TELLING_TOKENS: Final = 256
_TELLING_SECONDS: Final = 0.2
"""Shorter on both counts, and an answer tells of the connection rather than of reading."""


class Pace:
    """One replica's learnt speeds. `rate` is always usable, `tpot` only once something was measured.

    The rate measured is a quotient of two decaying sums, work over time, so that long prompts count for more than short
    ones. Work is what lay ahead of a prompt when it was sent, its own uncached tokens included: the same quantity
    that a prediction divides by the rate, so that errors common to both (a half-read prompt counted whole, blocks
    wrongly believed to be cached) fall out.
    """

    __slots__ = ("_seconds", "_tokens", "answers", "failures", "rate", "tpot")

    def __init__(self, rate: float = FIRST_RATE) -> None:
        self.restart(rate)

    def restart(self, rate: float) -> None:
        """Forgets everything and supposes a rate, in tokens a second."""
        self.rate = rate
        """Prompt tokens a second by which the replica is judged; see `settle`."""
        self._tokens = rate * _PRIOR_SECONDS
        self._seconds = _PRIOR_SECONDS
        self.tpot = 0.0
        """Seconds between two tokens of one stream; 0 before any was measured."""
        self.answers = 0
        """First bytes since the start."""
        self.failures = 0
        """Attempts and answers broken off in a row."""

    def measured(self) -> float:
        """Prompt tokens a second by this replica's own answers."""
        return self._tokens / self._seconds

    def saw_first_byte(self, *, work: int, in_flight: int, seconds: float) -> None:
        """A prompt was answered: `work` tokens were read in `seconds`, beside `in_flight` requests."""
        self.answers += 1
        if work < _TELLING_TOKENS and seconds < _TELLING_SECONDS:
            return
        reading = seconds - IN_FLIGHT_SECONDS * in_flight
        reading = max(reading, seconds / 10)  # the allowance for decoding was too generous here
        self._tokens = self._tokens * _KEEP + work
        self._seconds = self._seconds * _KEEP + reading

    def saw_end(self, tpot: float | None) -> None:
        """An answer ended well; seconds between its tokens, where it had several."""
        self.failures = 0
        if tpot is not None:
            self.tpot = tpot if self.tpot <= 0 else self.tpot * _KEEP + tpot * (1 - _KEEP)

    def saw_failure(self) -> None:
        """An attempt failed, or an answer broke off, through the replica's fault."""
        self.failures += 1


def settle(paces: Sequence[Pace]) -> None:
    """Sets the rates of replicas of one kind: the usual one for all, its own for one that is clearly different."""
    known = [pace.measured() for pace in paces if pace.answers]
    if not known:
        return
    usual = median(known)
    for pace in paces:
        own = pace.measured() if pace.answers >= TELLING_ANSWERS else usual
        pace.rate = usual if usual / NOISE <= own <= usual * NOISE else own
