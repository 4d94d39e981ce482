"""Where kept answers lie: in this process, and beyond it in Redis, for all gateways.

The process looks into its memory at once. Only when an answer is not there does anything wait for Redis, and all
requests for that answer wait together, as listeners of one flight; when Redis does not have it either, is slow or
away, the first of them leads. Answers go to Redis behind the requests' back. Without Redis nothing changes but
that gateways do not share.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Protocol

from plinth.gateway.cache.answer import HIT, Answer, pack, unpack
from plinth.gateway.cache.flights import Flight, Flights, Listener
from plinth.gateway.cache.memory import AnswerMemory

log = logging.getLogger(__name__)

_OK = 200
_PREFIX = b"plinth:answer:1:"
"""The number goes up when `Answer` changes: gateways of two versions may share one Redis."""
_FETCH_SECONDS = 0.03
"""Longest wait for Redis: what a prompt of some hundred tokens takes to be read."""
_PAUSE_SECONDS = 1.0
"""Redis is left alone so long after it failed."""
_MOST_UNSENT_BYTES = 8 * 1024 * 1024

Reply = bytes | int | str | None
Command = Sequence[bytes]


class RedisPort(Protocol):
    """A connection to Redis."""

    async def execute(self, commands: Sequence[Command]) -> list[Reply]:
        """Their replies, in order; raises OSError when Redis cannot be reached, or refuses one of them."""


class RedisAnswers:
    """Answers in Redis, each until its time is up. Requests are never in it, only digests of them."""

    def __init__(self, redis: RedisPort) -> None:
        self._redis = redis
        self._away_until = 0.0
        self._unsent: list[tuple[bytes, bytes, float]] = []
        self._unsent_bytes = 0
        self._sending: asyncio.Task[None] | None = None
        self.dropped = 0
        """Answers not kept in Redis since it was slow or away."""

    def is_near(self, now: float) -> bool:
        """Whether asking makes sense; `now` is monotonic."""
        return now >= self._away_until

    async def find(self, key: bytes) -> tuple[Answer, float] | None:
        """The answer and the seconds that it stays; None as well when Redis is slow or away."""
        name = _PREFIX + key
        replies = await self._ask([(b"GET", name), (b"PTTL", name)], _FETCH_SECONDS)
        if replies is None:
            return None
        packed, milliseconds = replies
        if not isinstance(packed, bytes) or not isinstance(milliseconds, int) or milliseconds <= 0:
            return None
        answer = unpack(packed)
        return (answer, milliseconds / 1000) if answer is not None else None

    def keep(self, key: bytes, answer: Answer, seconds: float, now: float) -> None:
        """Sends the answer soon; drops it when too much waits already."""
        if self._unsent_bytes + answer.weight > _MOST_UNSENT_BYTES or not self.is_near(now):
            self.dropped += 1
            return
        self._unsent.append((_PREFIX + key, pack(answer), seconds))
        self._unsent_bytes += answer.weight
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send())

    async def close(self) -> None:
        """Waits for what is on its way."""
        if self._sending is not None:
            await self._sending

    async def _send(self) -> None:
        while self._unsent:
            batch, self._unsent, self._unsent_bytes = self._unsent, [], 0
            commands = [
                (b"SET", name, packed, b"PX", b"%d" % max(1, seconds * 1000))
                for name, packed, seconds in batch
            ]
            if await self._ask(commands, _PAUSE_SECONDS) is None:
                self.dropped += len(batch)
        self._sending = None

    async def _ask(self, commands: Sequence[Command], seconds: float) -> list[Reply] | None:
        try:
            async with asyncio.timeout(seconds):
                return await self._redis.execute(commands)
        except OSError as error:  # TimeoutError is one
            if self.is_near(time.monotonic()):
                log.warning(
                    "Redis does not answer, the response cache goes on without it: %s", error or "slow"
                )
            self._away_until = time.monotonic() + _PAUSE_SECONDS
            return None


class ResponseCache:
    """What the data path asks, in this order: `find`, then `share`, then `lead`; `keep` when an answer is complete."""

    def __init__(
        self, *, most_bytes: int, answer_bytes: int, flight_bytes: int, redis: RedisPort | None = None
    ) -> None:
        self.memory = AnswerMemory(most_bytes=most_bytes, answer_bytes=answer_bytes)
        self.flights = Flights(answer_bytes=answer_bytes, most_bytes=flight_bytes)
        self.redis = RedisAnswers(redis) if redis is not None else None
        self._fetching: set[asyncio.Task[None]] = set()

    def find(self, key: bytes, now: float) -> tuple[Answer, float] | None:
        """A kept answer and the seconds that it stays, at once. `now` is monotonic, here and below."""
        return self.memory.find(key, now)

    def share(self, key: bytes, listener: Listener, now: float) -> Flight | None:
        """The flight that the request listens to now: an answer under way, or asked for in Redis; None to lead."""
        flight = self.flights.join(key, listener)
        if flight is None and self.redis is not None and self.redis.is_near(now):
            flight = self.flights.lead(key, listener.rank)
            flight.add(listener)
            task = asyncio.get_running_loop().create_task(self._fetch(self.redis, flight))
            self._fetching.add(task)
            task.add_done_callback(self._fetching.discard)
        return flight

    def lead(self, key: bytes, rank: int) -> Flight:
        """The flight that the request's own call must begin, feed and end."""
        return self.flights.lead(key, rank)

    def keep(self, key: bytes, answer: Answer, seconds: float, now: float) -> None:
        """Keeps an answer that is worth it."""
        self.memory.keep(key, answer, seconds, now)
        if self.redis is not None:
            self.redis.keep(key, answer, seconds, now)

    async def _fetch(self, redis: RedisAnswers, flight: Flight) -> None:
        found = await redis.find(flight.key)
        if found is None:
            flight.give_up()
            return
        answer, seconds = found
        self.memory.keep(flight.key, answer, seconds, time.monotonic())
        flight.deliver(_OK, answer.headers, answer.body, outcome=HIT)
