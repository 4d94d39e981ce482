"""How many requests one replica can work on at once: learnt from its streams. Pure; time is an argument.

An engine that is full queues inside, where neither fairness nor another replica can help. Seen from outside: streams
that were sent there and have no first token yet. Some of them are just being read, always about the same part of those
that the engine has taken in; beyond what it takes in, none of those added *runs* (has its first token). So the limit
is tried: some places more for a while, kept if they run as the others did, or some less, given up if they are not
missed. Where one place more only queues, the limit stays.

How many are being read is chance, so a trial and what it is compared with take as long as it takes to use every place
twice. Else a limit that is far too low fails its trials in turn, each failure makes the next one rarer, and it stays.

Why not what proxies use: a latency gradient (Envoy's adaptive concurrency, Netflix's Gradient2, TCP Vegas) takes a
longer prompt or a bigger, healthy batch for congestion, as both make tokens slower while throughput still grows, and
needs a baseline that is measured by throttling; AIMD waits for losses, and engines lose nothing; throughput itself
moves more with the mix of prompts than with one place more. Counts of streams have little of that noise.

Requests that are not streamed show no first token: they count as running, and a replica that gets no others keeps the
limit that it started with.
"""

from __future__ import annotations

from typing import Final

STEP: Final = 8
"""A trial is of one place in so many."""
WINDOW_SECONDS: Final = 2.0
"""At least so long, and `_USES` first tokens for each place."""
LONGEST_REST: Final = 7
"""Windows between trials, once those up and down have failed often."""
FIRST_REST: Final = 3
"""Full windows in which a new replica keeps what it was planned for."""
MOST: Final = 4096

_USES: Final = 2
_FULL: Final = 0.7
"""Places in use, on average, in a window that tells something: the reserve leaves up to a quarter free."""
_GAINED: Final = 0.5
"""Of the places tried, those that must run, or be missed."""
_CROWDED: Final = 0.5
"""Of the requests there, waiting for a first token and not getting fewer: no trial is needed."""
_FEW: Final = 3.0
_BACKOFF: Final = 0.7
_PACE_ADAPTS: Final = 0.1


class _Window:
    """Sums of what was there, over a time in which the limit stood."""

    __slots__ = ("first_tokens", "pending_before", "pending_seconds", "running_seconds", "since")

    def __init__(self, now: float, pending: int) -> None:
        self.since = now
        self.pending_before = pending
        self.first_tokens = 0
        self.pending_seconds = 0.0
        self.running_seconds = 0.0


class Saturation:
    """One replica's limit."""

    __slots__ = (
        "_base_running",
        "_base_there",
        "_changed_at",
        "_goal",
        "_least",
        "_pace",
        "_pending",
        "_rest",
        "_rested",
        "_running",
        "_step",
        "_up",
        "_window",
        "limit",
    )

    def __init__(self, planned: int, now: float, *, tpot_goal: float | None = None) -> None:
        """`planned` is the concurrency that the replica was sized for, `tpot_goal` seconds for each output token."""
        self.limit = max(1, planned)
        """Requests to send there at once."""
        self._least = min(2, self.limit)  # one is read while the other's last token is on its way
        self._goal = tpot_goal
        self._pace: float | None = None
        self._running = 0
        self._pending = 0
        self._changed_at = now
        self._window = _Window(now, 0)
        self._base_there = 0.0
        self._base_running = 0.0
        self._step = 0
        """Places added for a trial, taken away where negative; 0 between trials."""
        self._up = True
        """Whether the next trial adds places."""
        self._rest = FIRST_REST
        self._rested = 0

    @property
    def trying(self) -> int:
        """Of its places, those that may be too many."""
        return max(0, self._step)

    def plan(self, limit: int) -> None:
        """The replica is sized anew."""
        self.limit = max(1, limit)
        self._step = 0

    def dispatched(self, now: float, *, streamed: bool) -> None:
        """A request is sent to the replica."""
        self._account(now)
        if streamed:
            self._pending += 1
        else:
            self._running += 1

    def first_token(self, now: float) -> None:
        """A stream's first token came."""
        self._account(now)
        self._pending -= 1
        self._running += 1
        window = self._window
        window.first_tokens += 1
        if self._running + self._pending > self.limit:
            self._open(now)  # the limit fell: until what is beyond it has ended, nothing can be told
        elif self._step > 0 and self._running > self.limit - _GAINED * self._step:
            self._keep(self._base_there, self._base_running)
            self._open(now)
        elif now - window.since >= WINDOW_SECONDS and window.first_tokens * 4 >= self.limit:
            self._adjust(now)

    def ended(self, now: float, *, answered: bool, tpot: float | None = None) -> None:
        """A request left the replica. `answered`: its first token had come, or it was not streamed."""
        self._account(now)
        if answered:
            self._running -= 1
        else:
            self._pending -= 1
        if tpot is not None:
            self._pace = tpot if self._pace is None else self._pace + _PACE_ADAPTS * (tpot - self._pace)

    def refused(self, now: float) -> None:
        """The replica says that it is overloaded."""
        self._account(now)
        self._retreat(int((self._running + self._pending) * _BACKOFF), now)

    def _account(self, now: float) -> None:
        elapsed = now - self._changed_at
        self._changed_at = now
        window = self._window
        window.pending_seconds += self._pending * elapsed
        window.running_seconds += self._running * elapsed

    def _open(self, now: float) -> None:
        self._window = _Window(now, self._pending)

    def _adjust(self, now: float) -> None:
        """What is too much shows in a quarter of the time that a trial takes."""
        window = self._window
        length = now - window.since
        queued, running = window.pending_seconds / length, window.running_seconds / length
        there = queued + running
        if queued > max(_FEW, there * _CROWDED) and self._pending >= window.pending_before > 0:
            self._retreat(round(running + _FEW), now)
        elif self._goal is not None and self._pace is not None and self._pace > self._goal:
            self._retreat(self.limit - max(1, self.limit // STEP), now)
        elif window.first_tokens >= _USES * self.limit:
            if self._step:
                self._judge(there, running)
            elif there >= _FULL * self.limit:
                self._base_there, self._base_running = there, running
                self._rested += 1
                if self._rested > self._rest:
                    self._try()
            self._open(now)

    def _retreat(self, limit: int, now: float) -> None:
        """Gives up many places at once: a guess, to be looked at soon."""
        self.limit = max(self._least, min(self.limit, limit))
        self._step = self._rested = self._rest = 0
        self._up = False
        self._open(now)

    def _try(self) -> None:
        """Opens a trial; none leads below the least or above what anything can hold."""
        up = self.limit <= self._least or (self._up and self.limit < MOST)
        self._step = max(1, self.limit // STEP) * (1 if up else -1)
        self.limit += self._step

    def _judge(self, there: float, running: float) -> None:
        """Keeps the tried limit or takes it back; the next trial goes the other way, after a rest."""
        step = self._step
        usual = self._base_running / self._base_there  # the part that runs of what is there
        if step > 0:
            before = self.limit - step
            told = there >= before + _GAINED * step
            right = running >= usual * (before + _GAINED * step)
        else:
            told = self._base_there - there >= _GAINED * -step
            right = self._base_running - running < usual * _GAINED * -step
        if told and right:
            self._keep(there, running)
            return
        self.limit -= step
        self._step = self._rested = 0
        if told:  # else demand changed meanwhile
            self._rest, self._up = min(LONGEST_REST, 2 * self._rest + 1), step < 0

    def _keep(self, there: float, running: float) -> None:
        """The tried limit is right: goes on the same way at once."""
        self._base_there, self._base_running = there, running
        self._up, self._rest = self._step > 0, 0
        self._try()
