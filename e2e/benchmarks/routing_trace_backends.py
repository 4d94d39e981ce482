"""Replicas that only read prompts, and the clock of a trace: what the routing benchmark plays requests against.

Each backend reads one prompt after the other at a fixed rate, skips what its prefix cache holds, and keeps the
least recently used blocks. It is the model under which the published figures of `routing_trace` were made; a real
engine reads several prompts in pieces beside its decoding.
"""

from __future__ import annotations

import heapq
import json
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

BLOCK_TOKENS = 512
DECODE_SECONDS = 0.02
"""A token of the answer, which keeps a request in flight and costs reading nothing."""
JITTER_SECONDS = 0.25
"""By so much a seed moves each arrival: nothing in the code under test is left to chance."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request of the trace."""

    at: float
    tokens: int
    output_tokens: int
    blocks: list[int]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """How the trace is replayed."""

    backends: int = 8
    rate: float = 15_000.0
    cache_blocks: int = 3_000
    speed: float = 2.0


class Dispatcher(Protocol):
    """What is under test: told of each event as a gateway is, in order of time."""

    def send(self, asked: Asked, now: float) -> int:
        """The number of the backend that gets the request."""

    def first_byte(self, asked: Asked, now: float) -> None:
        """The request's prompt has been read."""

    def ended(self, asked: Asked, now: float) -> None:
        """The request's last token has come."""


@dataclass
class Backend:
    """One replica: when it will be free, and its cache as it will be then."""

    rate: float
    cache_blocks: int
    free_at: float = 0.0
    cache: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def held(self, blocks: Sequence[int]) -> int:
        """How many of the first blocks its cache will hold when it comes to them."""
        return next((depth for depth, block in enumerate(blocks) if block not in self.cache), len(blocks))

    def read(self, asked: Asked, now: float) -> tuple[float, int]:
        """Takes a prompt in; returns when it has been read and how many of its tokens were not cached."""
        uncached = max(1, asked.tokens - self.held(asked.blocks) * BLOCK_TOKENS)
        for block in reversed(asked.blocks):
            self.cache[block] = None
            self.cache.move_to_end(block)
        while len(self.cache) > self.cache_blocks:
            self.cache.popitem(last=False)
        self.free_at = max(now, self.free_at) + uncached / self.rate
        return self.free_at, uncached


@dataclass(frozen=True)
class Outcome:
    """What the users of one replay met."""

    ttfts: list[float]
    """Seconds, sorted."""
    hit_percent: float
    """Of all prompt tokens, those that a cache held."""

    def percent_under(self, seconds: float) -> float:
        """Of all requests."""
        return 100 * sum(ttft < seconds for ttft in self.ttfts) / len(self.ttfts)

    def percentile(self, part: float) -> float:
        """Seconds to first token that this part of the requests met or beat."""
        return self.ttfts[int(len(self.ttfts) * part)]


def read_trace(path: Path) -> list[Asked]:
    """A trace in Mooncake's form: timestamp (ms), input_length, output_length, hash_ids of 512-token blocks."""
    with path.open() as lines:
        rows = [json.loads(line) for line in lines]
    return [
        Asked(
            at=row["timestamp"] / 1000,
            tokens=row["input_length"],
            output_tokens=row["output_length"],
            blocks=row["hash_ids"],
        )
        for row in rows
    ]


def replay(
    trace: Sequence[Asked], scene: Scene, seed: int, make: Callable[[list[Backend]], Dispatcher]
) -> Outcome:
    """Plays a trace once; `make` gets the backends, which only one who claims perfect knowledge may look at."""
    backends = [Backend(scene.rate, scene.cache_blocks) for _ in range(scene.backends)]
    dispatcher = make(backends)
    events: list[tuple[float, int, bool, Asked]] = []
    ttfts, read = [], 0
    for number, (now, asked) in enumerate(_arrivals(trace, scene, seed)):
        _tell(dispatcher, events, now)
        first, uncached = backends[dispatcher.send(asked, now)].read(asked, now)
        ttfts.append(first - now)
        read += uncached
        heapq.heappush(events, (first, number, False, asked))
        heapq.heappush(events, (first + asked.output_tokens * DECODE_SECONDS, number, True, asked))
    _tell(dispatcher, events, float("inf"))
    total = sum(asked.tokens for asked in trace)
    return Outcome(ttfts=sorted(ttfts), hit_percent=100 * (1 - read / total))


def _arrivals(trace: Sequence[Asked], scene: Scene, seed: int) -> Iterator[tuple[float, Asked]]:
    jitter = random.Random(seed)  # noqa: S311 - a replay, no secret
    moved = [
        (max(0.0, asked.at / scene.speed + jitter.uniform(-1, 1) * JITTER_SECONDS), asked) for asked in trace
    ]
    yield from sorted(moved, key=lambda each: each[0])


def _tell(dispatcher: Dispatcher, events: list[tuple[float, int, bool, Asked]], until: float) -> None:
    while events and events[0][0] <= until:
        at, _, is_end, asked = heapq.heappop(events)
        (dispatcher.ended if is_end else dispatcher.first_byte)(asked, at)
