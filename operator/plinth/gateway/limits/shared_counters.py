"""The shared counters of one gateway's workers, kept by their parent where there is no Redis. Pure.

The same exchanges as with Redis, answered by the same law as the script in `exchange`; a test holds the two against
each other. So the workers' leases need not know who answers them, and their bounds hold as they are stated there.

`now` is seconds of a clock that never goes back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil, floor
from typing import Final

from plinth.gateway.limits.counters import PARTS
from plinth.gateway.limits.exchange import GATEWAY_SECONDS, SLICE
from plinth.gateway.limits.lease import HOLD_SECONDS

_ARGUMENTS: Final = 7
"""Of each lease in an exchange."""
_SLACK_SECONDS: Final = 60
_SLOT_PAUSE_SECONDS: Final = 0.05
"""Until another request is likely to have ended; a guess."""
_DEAD_SECONDS: Final = 600.0
"""A worker that was silent for so long does not come back: one that hangs is killed much earlier."""
_FEW: Final = 4096
"""Counters among which forgetting is not worth a look."""


@dataclass(slots=True)
class _Counter:
    """What is kept of one limit between exchanges; of its three kinds each uses its own part."""

    level: float = 0.0
    at: float = 0.0
    parts: dict[int, float] = field(default_factory=dict)
    """By number of the part of the window, oldest first."""
    held: dict[bytes, tuple[int, float]] = field(default_factory=dict)
    """Slots by worker, and until when they are believed."""
    marks: dict[bytes, int] = field(default_factory=dict)
    """The number of each worker's last report."""
    expires_at: float = 0.0


@dataclass(slots=True)
class _Ask:
    """One lease's report, and what its counter says of it."""

    counter: _Counter
    kind: bytes
    amount: int
    window: int
    settle: float
    own: int
    need: int
    want: int
    used: float = 0.0
    part: int = 0
    newest: float = 0.0

    @property
    def left(self) -> int:
        """Units that may still be had."""
        return floor(self.amount - self.used)

    def lacks(self) -> bool:
        """Whether there is no room for what nothing goes on without."""
        return 0 < self.need > self.left


class SharedCounters:
    """All counters of a gateway."""

    def __init__(self) -> None:
        self._counters: dict[bytes, _Counter] = {}
        self._workers: dict[bytes, float] = {}
        """When each was last heard of."""
        self._many = _FEW

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._counters)

    def heartbeat(self, worker: bytes, now: float) -> int:
        """A worker lives; how many do."""
        self._workers[worker] = now
        for name in [name for name, at in self._workers.items() if now - at > _DEAD_SECONDS]:
            del self._workers[name]
            for counter in self._counters.values():
                counter.marks.pop(name, None)
        return sum(now - at <= GATEWAY_SECONDS + 1 for at in self._workers.values())

    def exchange(self, keys: Sequence[bytes], arguments: Sequence[bytes], now: float) -> list[int]:
        """Counts what one worker reports and grants what it asks for: all that it needs, or nothing.

        Keys and arguments are an Exchange's.

        Raises:
            ValueError: they are not.
        """
        worker, number = arguments[0], int(arguments[1])
        asks = list(self._read(keys, arguments))
        for ask in asks:
            _count(ask, worker, number, now)
        lacking = any(ask.lacks() for ask in asks)
        answer: list[int] = []
        for ask in asks:
            granted, pause = 0, 0.0
            if ask.lacks():
                pause = _wait(ask, now)
            elif not lacking and ask.want > 0 and ask.left > 0:
                granted = min(ask.want, ask.left, max(ask.need, ask.left // SLICE))
            _keep(ask, granted, worker=worker, number=number, now=now)
            answer += granted, ceil(ask.used), ceil(pause * 1000)
        if len(self._counters) > self._many:
            self._forget(now)
        return answer

    def _read(self, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Iterator[_Ask]:
        if len(arguments) - 2 != len(keys) // 2 * _ARGUMENTS:
            raise ValueError(f"{len(arguments)} arguments for {len(keys)} keys")
        for index, key in enumerate(keys[::2]):
            start = 2 + index * _ARGUMENTS
            kind, *numbers = arguments[start : start + _ARGUMENTS]
            amount, window, settle, own, need, want = map(int, numbers)
            counter = self._counters.get(key)
            if counter is None:
                counter = self._counters[key] = _Counter()
            yield _Ask(counter, kind, amount, window, settle, own, need, want)

    def _forget(self, now: float) -> None:
        for key in [key for key, counter in self._counters.items() if counter.expires_at < now]:
            del self._counters[key]
        self._many = max(_FEW, 2 * len(self._counters))


def _count(ask: _Ask, worker: bytes, number: int, now: float) -> None:
    """Puts what is reported to what is known; of a report that has been counted before, nothing."""
    if ask.kind == b"slots":
        held = ask.counter.held
        for name in [name for name, (_, till) in held.items() if till < now]:
            del held[name]
        ask.used = ask.settle + sum(count for name, (count, _) in held.items() if name != worker)
        return
    last = ask.counter.marks.get(worker)
    if last is None:
        ask.settle = ask.own
    elif last >= number:
        ask.settle = 0
    if ask.kind == b"bucket":
        drained = (now - ask.counter.at) * ask.amount / ask.window
        ask.used = max(0.0, max(0.0, ask.counter.level - drained) + ask.settle)
    else:
        _count_parts(ask, now)


def _count_parts(ask: _Ask, now: float) -> None:
    parts = ask.counter.parts
    ask.part = floor(now / (ask.window / PARTS))
    for part in [part for part in parts if part < ask.part - PARTS]:
        del parts[part]
    ask.newest = max(0.0, ask.settle)
    back = max(0.0, -ask.settle)
    for part, used in parts.items():  # oldest first: later sums are too high rather than too low
        if not back:
            break
        taken = min(back, used)
        back -= taken
        parts[part] = used - taken
    ask.used = sum(parts.values()) + ask.newest


def _wait(ask: _Ask, now: float) -> float:
    """Seconds until there is room for what is needed."""
    excess = ask.used + ask.need - ask.amount
    if ask.kind == b"bucket":
        return excess * ask.window / ask.amount
    if ask.kind == b"slots":
        return _SLOT_PAUSE_SECONDS
    for part, used in ask.counter.parts.items():
        excess -= used
        if excess <= 0:
            return (part + PARTS + 1) * (ask.window / PARTS) - now
    return ask.window


def _keep(ask: _Ask, granted: int, *, worker: bytes, number: int, now: float) -> None:
    counter = ask.counter
    ask.used += granted
    if ask.kind == b"slots":
        held = int(ask.settle) + granted
        if held > 0:
            counter.held[worker] = (held, now + HOLD_SECONDS)
        else:
            counter.held.pop(worker, None)
    else:
        if ask.kind == b"bucket":
            counter.level, counter.at = ask.used, now
        elif ask.newest + granted > 0:
            counter.parts[ask.part] = counter.parts.get(ask.part, 0.0) + ask.newest + granted
        counter.marks[worker] = number
    counter.expires_at = now + 2 * ask.window + _SLACK_SECONDS
