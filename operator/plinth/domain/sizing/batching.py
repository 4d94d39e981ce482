"""A closed loop of users against the engine's scheduler, step by step: who waits how long for how many tokens.

The scheduler is vLLM's (`v1/core/sched/scheduler.py`): every running request gets its token, what is left of
`max-num-batched-tokens` goes to prompts in the order of their arrival, cut where it ends. A step is scheduled while
the one before it runs (async scheduling; v1/engine/core.py, `step_with_batch_queue`, two deep).
Requests pass a front end first, one event loop that all who are in it share: they leave it together, when it has done
the work of all. So many who are answered within a few steps are read together too, however far apart they are read.
Everybody asks again as soon as answered, all with prompts and answers of one length, which is what load tests do.
A pipeline has a batch under way for each of its stages. Whoever is in one stays with it; those who wait join the next
that is made up, all together, so that a few large batches follow each other through the stages.

No chance and no clock: the same load gives the same times. Requests in the same state are one group, and steps in
which nobody arrives or leaves are passed over together, so a load of forty users takes some dozens of turns.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from math import inf
from typing import Protocol

from plinth.domain.quantities import ceil_div
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
    stages: int = 1
    """Of a pipeline; so many batches are under way."""


@dataclass(frozen=True)
class Spread:
    """Values with how often each occurred, smallest first."""

    values: tuple[tuple[float, int], ...]

    def percentiles(self, *percents: int) -> list[float]:
        """For each the least value that so many percent of all are at most; 0 where there are none."""
        reached = self._reached
        if not reached:
            return [0.0] * len(percents)
        return [self.values[bisect_left(reached, reached[-1] * each / 100)][0] for each in percents]

    @cached_property
    def _reached(self) -> list[int]:
        """How many are at most as large as each value. Kept: a load that was played once is asked about often."""
        return list(accumulate(count for _, count in self.values))


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
    while run.goes_on:
        run.turn()
    return Served(
        ttft=Spread(tuple(sorted(run.ttfts))),
        tpot=Spread(tuple(sorted(run.tpots))),
        duration=max(lane.now for lane in run.lanes),
        requests=run.answered,
    )


@dataclass(slots=True, eq=False)
class _Lane:
    """One of the batches under way."""

    now: float = 0.0
    scheduled: float = 0.0
    """When the step that comes next was made up."""
    reading: deque[_Group] = field(default_factory=deque)
    writing: list[_Group] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether nobody is in it."""
        return not self.reading and not self.writing


class _Run:
    """One load under way."""

    def __init__(self, clock: Clock, loop: ClosedLoop, capacity: Capacity) -> None:
        self.clock, self.loop, self.capacity = clock, loop, capacity
        self.lanes = [_Lane() for _ in range(capacity.stages)]
        self.is_alone = capacity.stages == 1
        """Whether one batch is under way at a time."""
        self.under_way = 0
        """Requests in all batches."""
        self.entrance = self.exit = 0.0
        """When the first stage is free of the last batch that entered it, and when that batch leaves the last one."""
        self.free = 0.0
        """When the front end has no more work."""
        self.to_ask = max(loop.requests, loop.users)
        self.answered = 0
        self.waiting: deque[_Group] = deque()
        self.ttfts: list[tuple[float, int]] = []
        self.tpots: list[tuple[float, int]] = []
        self._ask(loop.users, 0.0)

    @property
    def goes_on(self) -> bool:
        """Whether anybody waits for anything."""
        return bool(self.waiting) or self.under_way > 0

    def turn(self) -> None:
        """One step, or many alike, of the batch that comes next."""
        left = self.capacity.requests - self.under_way
        lane = self.lanes[0] if self.is_alone else min(self.lanes, key=lambda each: self._starts(each, left))
        decoding = sum(each.count for each in lane.writing)
        taken = self._take(lane, self.capacity.step_tokens - decoding, left)
        joining = bool(self.waiting) and left > 0
        steps = 1 if taken or (joining and self.is_alone) else self._steps_until_an_end(lane)
        if steps > 1 and not self.is_alone:
            steps = min(steps, self._steps_until_asked(lane, joining=joining))
        self._pass(lane, self._batch(lane, taken, steps), steps)
        self._advance_writing(lane, steps)
        if taken:
            self._advance_reading(lane, taken)

    def _starts(self, lane: _Lane, seats: int) -> float:
        """When the lane's next step may start."""
        if not lane.is_empty:
            return lane.now
        return max(lane.now, self.waiting[0].ready) if self.waiting and seats > 0 else inf

    def _batch(self, lane: _Lane, taken: list[tuple[_Group, int]], steps: int) -> Batch:
        length = self.loop.input_tokens
        decoding = remembered = prompt = pairs = sampled = 0
        for each in lane.writing:
            decoding += each.count
            remembered += each.count * (length + each.made + steps // 2)
        for group, tokens in taken:
            prompt += group.count * tokens
            pairs += group.count * tokens * (group.read + tokens // 2)
            if group.read + tokens == length:
                sampled += group.count
        return Batch(decoding, remembered, prompt, pairs, sampled)

    def _pass(self, lane: _Lane, batch: Batch, steps: int) -> None:
        """Through all stages, behind the batch before it."""
        if self.waiting:
            self._hold_up(steps * self.clock.handing_microseconds(batch), lane.now)
        pace = self.clock.step_microseconds(batch)
        stage = pace / len(self.lanes)
        entered = lane.now if self.is_alone else max(lane.now, self.entrance)
        left = entered + pace if self.is_alone else max(entered + pace, self.exit + stage)
        self.entrance, self.exit = entered + stage, left
        lane.now = left + (steps - 1) * pace
        # A step is made up while the one before it runs; in a pipeline, when another batch has left it.
        lane.scheduled = lane.now - pace if self.is_alone else lane.now

    def _hold_up(self, work: float, now: float) -> None:
        """Whoever is in the front end shares it with the tokens that it hands out."""
        inside = [group for group in self.waiting if group.ready > now]
        for group in inside:
            group.ready += work
        self.free += work if inside else 0

    def _ask(self, users: int, now: float) -> None:
        """So many users send a request now; whoever is still in the front end waits for their work too."""
        asked = min(users, self.to_ask)
        if not asked:
            return
        self.to_ask -= asked
        self.free = max(now, self.free) + asked * self.capacity.admission_microseconds
        for group in self.waiting:
            if group.ready > now:
                group.ready = self.free
        self.waiting.append(_Group(asked, now, self.free))

    def _steps_until_an_end(self, lane: _Lane) -> int:
        return min((self.loop.output_tokens - each.made for each in lane.writing), default=1)

    def _steps_until_asked(self, lane: _Lane, *, joining: bool) -> int:
        """Until somebody who is answered in another batch of the pipeline asks again, and may join this one.

        Or until who waits has asked: where that other batch is ahead of this one, it is still to come.
        """
        pace = self.clock.step_microseconds(self._batch(lane, [], 1))
        others = (each for each in self.lanes if each is not lane and each.writing)
        asked = [each.now + self._steps_until_an_end(each) * pace for each in others]
        if joining:
            asked.append(self.waiting[0].ready)
        if not asked:
            return self.loop.output_tokens
        return max(1, int((min(asked) - lane.now) / pace))

    def _take(self, lane: _Lane, tokens: int, seats: int) -> list[tuple[_Group, int]]:
        """Who of those that wait is in this step, with how many tokens of each prompt."""
        if self.waiting:
            unread = sum(each.count * (self.loop.input_tokens - each.read) for each in lane.reading)
            self._admit(lane, min(seats, ceil_div(max(0, tokens - unread), self.loop.input_tokens)))
        if not lane.reading:
            return []
        taken: list[tuple[_Group, int]] = []
        reading: deque[_Group] = deque()
        for group in lane.reading:
            for piece, share in _cut(group, self.loop.input_tokens - group.read, max(0, tokens)):
                reading.append(piece)
                if share:
                    taken.append((piece, share))
                    tokens -= piece.count * share
        lane.reading = reading
        return taken

    def _admit(self, lane: _Lane, seats: int) -> None:
        """Those who had passed the front end when this step was made up; an engine with nothing to do waits for one."""
        if lane.is_empty:
            lane.now = max(lane.now, self.waiting[0].ready)
            self._seat(lane, 1)
            return
        while self.waiting and seats > 0 and self.waiting[0].ready < lane.scheduled:
            passed = min(self.waiting[0].count, seats)
            self._seat(lane, passed)
            seats -= passed

    def _seat(self, lane: _Lane, count: int) -> None:
        """The first so many of the first group begin to be read."""
        group = self.waiting[0]
        lane.reading.append(_split(group, count))
        self.under_way += count
        if not group.count:
            self.waiting.popleft()

    def _advance_writing(self, lane: _Lane, steps: int) -> None:
        for each in lane.writing:
            each.made += steps
        done = [each for each in lane.writing if each.made >= self.loop.output_tokens]
        if not done:
            return
        lane.writing = [each for each in lane.writing if each.made < self.loop.output_tokens]
        for each in done:
            pause = (lane.now - each.first) / max(1, self.loop.output_tokens - 1)
            self.tpots.append((pause, each.count))
        self._answer(sum(each.count for each in done), lane.now)

    def _advance_reading(self, lane: _Lane, taken: list[tuple[_Group, int]]) -> None:
        ended = 0
        for group, tokens in taken:
            group.read += tokens
            if group.read < self.loop.input_tokens:
                continue
            lane.reading.remove(group)
            self.ttfts.append((lane.now - group.arrived, group.count))
            group.first, group.made = lane.now, 1
            if self.loop.output_tokens > 1:
                lane.writing.append(group)
            else:
                self.tpots.append((0.0, group.count))
                ended += group.count
        self._answer(ended, lane.now)

    def _answer(self, ended: int, now: float) -> None:
        if ended:
            self.answered += ended
            self.under_way -= ended
            self._ask(ended, now)


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
