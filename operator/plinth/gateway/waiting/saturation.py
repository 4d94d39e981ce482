"""How many requests one replica can work on at once: learnt from its streams. Pure; time is an argument.

An engine that is full queues inside, where neither fairness nor another replica can help. Seen from outside: streams
that were sent there and have no first token yet. So the limit climbs by a gradient: a few places more for one window,
and if at least half of them came to *run* (had their first token), they are kept; a few less, and if no more than
half of them are missed, they are given up. The limit ends where one place more only queues.

Why not what proxies use: a latency gradient (Envoy's adaptive concurrency, Netflix's Gradient2, TCP Vegas) takes a
longer prompt or a bigger, healthy batch for congestion, as both make tokens slower while throughput still grows, and
needs a baseline that is measured by throttling; AIMD waits for losses, and engines lose nothing; throughput itself
moves more with the mix of prompts than with one place more. Counts of streams have none of that noise.

Requests that are not streamed show no first token: they count as running, and a replica that gets no others keeps the
limit that it started with.
"""

from __future__ import annotations

from enum import IntEnum

STEP = 8
"""A probe is one place in so many while the limit moves, half of that once it has been found."""
WINDOW_SECONDS = 1.0
MOST = 4096
LONGEST_REST = 63
"""Windows between probes, once those up and down have failed often: whom a probe makes wait is one in a hundred."""
_BUSY = 0.85
"""Places used, on average, in a window that tells something; the queue's reserve leaves a sixteenth free."""
_USED = 0.5
_CROWDED = 0.5
"""Of the requests there, waiting for a first token: far too many, no probe is needed."""
_FEW = 3.0
_BACKOFF = 0.7
_PACE_ADAPTS = 0.1


class _Probe(IntEnum):
    """Which way the limit is being tried."""

    DOWN = -1
    NONE = 0
    UP = 1


class Saturation:
    """One replica's limit. A window lasts at least a second and an eighth of the limit in first tokens."""

    __slots__ = (
        "_base_flying",
        "_base_running",
        "_changed_at",
        "_first_tokens",
        "_goal",
        "_next",
        "_pace",
        "_pending",
        "_pending_before",
        "_pending_seconds",
        "_probe",
        "_rest",
        "_rested",
        "_running",
        "_running_seconds",
        "_since",
        "_step",
        "limit",
    )

    def __init__(self, planned: int, now: float, *, tpot_goal: float | None = None) -> None:
        """`planned` is the concurrency that the replica was sized for, `tpot_goal` seconds for each output token."""
        self.limit = max(1, planned)
        """Requests to send there at once."""
        self._goal = tpot_goal
        self._pace: float | None = None
        self._running = 0
        self._pending = 0
        self._changed_at = now
        self._probe = _Probe.NONE
        self._next = _Probe.UP
        self._step = 0
        self._rest = 0
        self._rested = 0
        self._base_flying = 0.0
        self._base_running = 0.0
        self._open(now)

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
        self._first_tokens += 1
        if now - self._since >= WINDOW_SECONDS and self._first_tokens * STEP >= self.limit:
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
        self.limit = max(1, int((self._running + self._pending) * _BACKOFF))
        self._probe = _Probe.NONE
        self._open(now)

    def _account(self, now: float) -> None:
        elapsed = now - self._changed_at
        self._changed_at = now
        self._pending_seconds += self._pending * elapsed
        self._running_seconds += self._running * elapsed

    def _adjust(self, now: float) -> None:
        length = now - self._since
        queued, running = self._pending_seconds / length, self._running_seconds / length
        flying = queued + running
        if queued > max(_FEW, flying * _CROWDED) and self._pending >= self._pending_before:
            self._retreat(round(running + _FEW))
        elif self._goal is not None and self._pace is not None and self._pace > self._goal:
            self._retreat(self.limit - max(1, self.limit // STEP))
        elif self._probe is not _Probe.NONE:
            self._judge(flying, running)
        elif flying >= _BUSY * self.limit:
            self._compare(flying, running)
        self._open(now)

    def _compare(self, flying: float, running: float) -> None:
        """Notes what a full replica does; looks for its limit anew when that has changed, else now and then."""
        change = running - self._base_running
        if abs(change) > max(1.0, self.limit / STEP):
            self._rest, self._next = 0, _Probe.UP if change > 0 else _Probe.DOWN
        self._base_flying, self._base_running = flying, running
        self._rested += 1
        if self._rested > self._rest:
            self._try()

    def _retreat(self, limit: int) -> None:
        self.limit = max(1, min(self.limit, limit))
        self._probe = _Probe.NONE

    def _try(self) -> None:
        """Opens a probe; none leads below 1 or above what anything can hold."""
        self._probe = _Probe.UP if self.limit == 1 else _Probe.DOWN if self.limit >= MOST else self._next
        self._step = self._probe * max(1, self.limit // (2 * STEP if self._rest else STEP))
        self.limit += self._step

    def _judge(self, flying: float, running: float) -> None:
        """Keeps the probed limit or takes it back; the next probe goes on the same way, or the other."""
        probe, self._probe = self._probe, _Probe.NONE
        moved = (flying - self._base_flying) * probe
        used = (running - self._base_running) * probe / moved if moved > 0 else 0.0
        if abs(self._step) > 2 * moved:
            self.limit -= self._step  # demand changed meanwhile: this tells nothing
        elif (used >= _USED) is (probe is _Probe.UP):
            self._next, self._rest = probe, 0
        else:
            self.limit -= self._step
            self._next = _Probe.DOWN if probe is _Probe.UP else _Probe.UP
            self._rest = min(LONGEST_REST, 2 * self._rest + 1)
        self._rested = 0

    def _open(self, now: float) -> None:
        self._since = now
        self._first_tokens = 0
        self._pending_before = self._pending
        self._pending_seconds = 0.0
        self._running_seconds = 0.0
