"""A closed loop of users against the engine's scheduler, step by step: who waits how long for how many tokens.

The scheduler is vLLM's (`v1/core/sched/scheduler.py`): every running request gets its token, what is left of
`max-num-batched-tokens` goes to prompts in the order of their arrival, cut where it ends. A step is scheduled while
the one before it runs (async scheduling; v1/engine/core.py, `step_with_batch_queue`, two deep).
Requests pass a front end first, one event loop that all who are in it share: they leave it together, when it has done
the work of all. So many who are answered within a few steps are read together too, however far apart they are read.
Everybody asks again as soon as answered, all with prompts and answers of one length, which is what load tests do.

No chance and no clock: the same load gives the same times. Requests in the same state are one group, and steps in
which nobody arrives or leaves are passed over together, so a load of forty users takes some dozens of turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from plinth.domain.sizing.steps import Batch


class Clock(Protocol):
    """Says how long steps take; `StepClock` is one."""

    def step_microseconds(self, batch: Batch) -> float:
        """The time of one step."""

    def handing_microseconds(self, batch: Batch) -> float:
        """The front end's work for the tokens of one step, that requests in it wait for."""


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """Who asks for what."""

    users: int
    requests: int
    """In all; every user has one under way until they are used up."""
    input_tokens: int
    output_tokens: int
    """0 where nothing is generated: an answer is ready when the prompt is read."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What the engine can hold at once, and how fast requests come in."""

    step_tokens: int
    requests: int
    admission_microseconds: float = 0.0
    """The front end's work for one request."""


class Spread(NamedTuple):
    """Values with how often each occurred, smallest first."""

    values: tuple[tuple[float, int], ...]

    def percentile(self, percent: int) -> float:
        """The least value that so many percent of all are at most."""
        wanted = sum(count for _, count in self.values) * percent / 100
        passed = 0
        for value, count in self.values:
            passed += count
            if passed >= wanted:
                return value
        return 0.0


@dataclass(frozen=True, kw_only=True)
class Served:
    """How the load fared; times in microseconds."""

    ttft: Spread
    tpot: Spread
    duration: float
    requests: int


@dataclass(slots=True, eq=False)
class _Group:
    """Requests in the same state."""

    count: int
    arrived: float
    ready: float
    """When they have passed the front end."""
    read: int = 0
    """Tokens of each prompt that are in the cache."""
    made: int = 0
    """Tokens of each answer."""
    first: float = 0.0


def serve(clock: Clock, loop: ClosedLoop, capacity: Capacity) -> Served:
    """The load from its first request to its last answer."""
    run = _Run(clock, loop, capacity)
    while run.waiting or run.reading or run.writing:
        run.turn()
    return Served(
        ttft=Spread(tuple(sorted(run.ttfts))),
        tpot=Spread(tuple(sorted(run.tpots))),
        duration=run.now,
        requests=run.answered,
    )


class _Run:
    """One load under way."""

    def __init__(self, clock: Clock, loop: ClosedLoop, capacity: Capacity) -> None:
        self.clock, self.loop, self.capacity = clock, loop, capacity
        self.now = 0.0
        self.scheduled = 0.0
        """When the step that comes next was made up: as the one before it started."""
        self.free = 0.0
        """When the front end has no more work."""
        self.to_ask = max(loop.requests, loop.users)
        self.answered = 0
        self.waiting: deque[_Group] = deque()
        self.reading: deque[_Group] = deque()
        self.writing: list[_Group] = []
        self.ttfts: list[tuple[float, int]] = []
        self.tpots: list[tuple[float, int]] = []
        self._ask(loop.users)

    def turn(self) -> None:
        """One step, or many alike."""
        decoding = sum(each.count for each in self.writing)
        taken = self._take(self.capacity.step_tokens - decoding, self.capacity.requests - decoding)
        seats = self.capacity.requests - decoding - sum(each.count for each in self.reading)
        joining = bool(self.waiting) and seats > 0
        steps = 1 if taken or joining else self._steps_until_an_end()
        remembered = sum(
            each.count * (self.loop.input_tokens + each.made + steps // 2) for each in self.writing
        )
        batch = Batch(
            decoding=decoding,
            remembered=remembered,
            prompt=sum(group.count * tokens for group, tokens in taken),
            pairs=sum(group.count * tokens * (group.read + tokens // 2) for group, tokens in taken),
            sampled=sum(
                group.count for group, tokens in taken if group.read + tokens == self.loop.input_tokens
            ),
        )
        self._hold_up(steps * self.clock.handing_microseconds(batch))
        pace = self.clock.step_microseconds(batch)
        self.scheduled = self.now + (steps - 1) * pace
        self.now += steps * pace
        self._advance_writing(steps)
        self._advance_reading(taken)

    def _hold_up(self, work: float) -> None:
        """Whoever is in the front end shares it with the tokens that it hands out."""
        inside = [group for group in self.waiting if group.ready > self.now]
        for group in inside:
            group.ready += work
        self.free += work if inside else 0

    def _ask(self, users: int) -> None:
        """So many users send a request now; whoever is still in the front end waits for their work too."""
        asked = min(users, self.to_ask)
        if not asked:
            return
        self.to_ask -= asked
        self.free = max(self.now, self.free) + asked * self.capacity.admission_microseconds
        for group in self.waiting:
            if group.ready > self.now:
                group.ready = self.free
        self.waiting.append(_Group(asked, self.now, self.free))

    def _steps_until_an_end(self) -> int:
        return min((self.loop.output_tokens - each.made for each in self.writing), default=1)

    def _take(self, tokens: int, seats: int) -> list[tuple[_Group, int]]:
        """Who of those that wait is in this step, with how many tokens of each prompt."""
        self._admit(seats - sum(each.count for each in self.reading))
        taken: list[tuple[_Group, int]] = []
        reading: deque[_Group] = deque()
        for group in self.reading:
            for piece, share in _cut(group, self.loop.input_tokens - group.read, max(0, tokens)):
                reading.append(piece)
                if share:
                    taken.append((piece, share))
                    tokens -= piece.count * share
        self.reading = reading
        return taken

    def _admit(self, seats: int) -> None:
        """Those who had passed the front end when this step was made up; an engine with nothing to do waits for one."""
        if self.waiting and not (self.writing or self.reading):
            self.now = max(self.now, self.waiting[0].ready)
            self._seat(1)
            return
        while self.waiting and seats > 0 and self.waiting[0].ready < self.scheduled:
            passed = min(self.waiting[0].count, seats)
            self._seat(passed)
            seats -= passed

    def _seat(self, count: int) -> None:
        """The first so many of the first group begin to be read."""
        group = self.waiting[0]
        self.reading.append(_split(group, count))
        if not group.count:
            self.waiting.popleft()

    def _advance_writing(self, steps: int) -> None:
        ended = 0
        going: list[_Group] = []
        for each in self.writing:
            each.made += steps
            if each.made < self.loop.output_tokens:
                going.append(each)
                continue
            ended += each.count
            pause = (self.now - each.first) / max(1, self.loop.output_tokens - 1)
            self.tpots.append((pause, each.count))
        self.writing = going
        self._answer(ended)

    def _advance_reading(self, taken: list[tuple[_Group, int]]) -> None:
        ended = 0
        for group, tokens in taken:
            group.read += tokens
            if group.read < self.loop.input_tokens:
                continue
            self.reading.remove(group)
            self.ttfts.append((self.now - group.arrived, group.count))
            group.first, group.made = self.now, 1
            if self.loop.output_tokens > 1:
                self.writing.append(group)
            else:
                self.tpots.append((0.0, group.count))
                ended += group.count
        self._answer(ended)

    def _answer(self, ended: int) -> None:
        self.answered += ended
        if ended:
            self._ask(ended)


def _cut(group: _Group, left: int, tokens: int) -> Iterator[tuple[_Group, int]]:
    """The group in pieces, with the tokens of each prompt that are read now: all that are left, some, or none."""
    whole = min(group.count, tokens // left)
    some = tokens - whole * left if whole < group.count else 0
    for count, share in ((whole, left), (1, some)):
        if count and share:
            yield _split(group, count), share
    if group.count:
        yield group, 0


def _split(group: _Group, count: int) -> _Group:
    """Take `count` requests out of a group."""
    group.count -= count
    return _Group(count, group.arrived, group.ready, group.read, group.made, group.first)
