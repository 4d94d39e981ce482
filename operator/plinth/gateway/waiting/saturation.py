"""How many requests one replica can work on at once: learnt from its streams. Pure; time is an argument.

An engine that is full queues inside, where neither fairness nor another replica can help. Seen from outside: streams
that were sent there and have no first token yet. So the limit climbs by a gradient: some places more for one window,
and if most of them came to *run* (had their first token), they are kept; some less, and if most of them are not
missed, they are given up. The limit ends where one place more only queues.

Why not what proxies use: a latency gradient (Envoy's adaptive concurrency, Netflix's Gradient2, TCP Vegas) takes a
longer prompt or a bigger, healthy batch for congestion, as both make tokens slower while throughput still grows, and
needs a baseline that is measured by throttling; AIMD waits for losses, and engines lose nothing; throughput itself
moves more with the mix of prompts than with one place more. Counts of streams have little of that noise.

Requests that are not streamed show no first token: they count as running, and a replica that gets no others keeps the
limit that it started with.
"""

from __future__ import annotations

from enum import IntEnum

STEP = 8
"""A probe is one place in so many."""
WINDOW_SECONDS = 2.0
"""At least so long, and a quarter of the limit in first tokens: one prompt more or less must not decide."""
LONGEST_REST = 63
"""Windows between probes, once those up and down have failed often: whom a probe makes wait is one in a hundred."""
FIRST_REST = 15
"""Full windows in which a new replica keeps what it was planned for."""
MOST = 4096
PEAK_WINDOWS = 8

_FULL = 0.85
"""Places in use, on average, in a window that tells something: the reserve leaves a sixteenth free."""
_GAINED = 0.75
"""Of the places added, those that must run; less is what the reserve left unused before."""
_MISSED = 0.5
_CROWDED = 0.5
"""Of the requests there, waiting for a first token and not getting fewer: no probe is needed."""
_FEW = 3.0
_FLAT = 0.95
"""Running on average, of the most at once: the line is flat at its top, as it is where an engine is full."""
_BACKOFF = 0.7
_PACE_ADAPTS = 0.1


class _Probe(IntEnum):
    """Which way the limit is being tried."""

    DOWN = -1
    NONE = 0
    UP = 1


class _Window:
    """Means of what was there, over a time in which the limit stood."""

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
        "_base_flying",
        "_base_running",
        "_changed_at",
        "_goal",
        "_least",
        "_next",
        "_pace",
        "_peak_flying",
        "_peak_running",
        "_peak_windows",
        "_pending",
        "_probe",
        "_rest",
        "_rested",
        "_running",
        "_step",
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
        self._base_flying = 0.0
        self._base_running = 0.0
        self._peak_running = 0
        self._peak_flying = 0
        self._peak_windows = 0
        self._probe = _Probe.NONE
        self._next = _Probe.UP
        self._step = 0
        self._rest = FIRST_REST
        self._rested = 0

    def dispatched(self, now: float, *, streamed: bool) -> None:
        """A request is sent to the replica."""
        self._account(now)
        if streamed:
            self._pending += 1
        else:
            self._running += 1
        self._peak_flying = max(self._peak_flying, self._pending + self._running)

    def first_token(self, now: float) -> None:
        """A stream's first token came."""
        self._account(now)
        self._pending -= 1
        self._running += 1
        self._peak_running = max(self._peak_running, self._running)
        window = self._window
        window.first_tokens += 1
        if self._running + self._pending > self.limit:
            self._open(now)  # the limit fell: until what is beyond it has ended, nothing can be told
        elif now - window.since >= WINDOW_SECONDS and window.first_tokens * 4 >= self.limit:
            self._adjust(now)
            self._open(now)

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
        self._retreat(int((self._running + self._pending) * _BACKOFF))
        self._open(now)

    def _account(self, now: float) -> None:
        elapsed = now - self._changed_at
        self._changed_at = now
        window = self._window
        window.pending_seconds += self._pending * elapsed
        window.running_seconds += self._running * elapsed

    def _open(self, now: float) -> None:
        self._window = _Window(now, self._pending)

    def _adjust(self, now: float) -> None:
        window = self._window
        length = now - window.since
        queued, running = window.pending_seconds / length, window.running_seconds / length
        flying = queued + running
        if queued > max(_FEW, flying * _CROWDED) and self._pending >= window.pending_before:
            self._retreat(round(running + _FEW))
        elif self._goal is not None and self._pace is not None and self._pace > self._goal:
            self._retreat(self.limit - max(1, self.limit // STEP))
        elif self._probe is not _Probe.NONE:
            self._judge(flying, running)
        elif flying >= _FULL * self.limit:
            self._compare(flying, running)

    def _retreat(self, limit: int) -> None:
        self.limit = max(self._least, min(self.limit, limit))
        self._probe = _Probe.NONE

    def _compare(self, flying: float, running: float) -> None:
        """Notes what a full replica does; tries its limit anew when that has changed and settled, else now and then."""
        change = running - self._base_running if self._base_running else 0.0
        self._base_flying, self._base_running = flying, running
        self._peak_windows += 1
        if self._peak_windows >= PEAK_WINDOWS:
            self._cut(running)
        if abs(change) > max(1.0, self.limit / STEP):
            self._rest, self._next = 0, _Probe.UP if change > 0 else _Probe.DOWN
            return
        self._rested += 1
        if self._rested > self._rest:
            self._try()

    def _cut(self, running: float) -> None:
        """What was there at once and never ran at once cannot. Where prompts are long, one more may be read meanwhile."""
        if self._peak_running < self._peak_flying:
            spare = running < _FLAT * self._peak_running
            self.limit = max(self._least, min(self.limit, self._peak_running + spare))
        self._peak_running, self._peak_flying, self._peak_windows = self._running, 0, 0

    def _try(self) -> None:
        """Opens a probe; none leads below the least or above what anything can hold."""
        self._probe = (
            _Probe.UP if self.limit <= self._least else _Probe.DOWN if self.limit >= MOST else self._next
        )
        self._step = self._probe * max(1, self.limit // STEP)
        self.limit += self._step

    def _judge(self, flying: float, running: float) -> None:
        """Keeps the probed limit or takes it back; the next probe goes on the same way, or the other."""
        probe, self._probe = self._probe, _Probe.NONE
        moved = flying - self._base_flying
        used = (running - self._base_running) / moved if moved else 0.0
        self._rested = 0
        if moved * probe * 2 < abs(self._step):
            self.limit -= self._step  # demand changed meanwhile: this tells nothing
        elif used >= _GAINED if probe is _Probe.UP else used < _MISSED:
            self._next, self._rest = probe, 0
        else:
            self.limit -= self._step
            self._next = _Probe.DOWN if probe is _Probe.UP else _Probe.UP
            self._rest = min(LONGEST_REST, 2 * self._rest + 1)
