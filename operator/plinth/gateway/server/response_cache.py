"""Where kept answers lie: in this process, and beyond it in Redis, for all gateways.

The process looks into its memory at once. Only when an answer is not there does anything wait for Redis, and all
requests for that answer wait together, as listeners of one flight; when Redis does not have it either, is slow or
away, the first of them leads. Without Redis nothing changes but that gateways do not share.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from plinth.gateway.cache.answer import HIT, Answer, pack, unpack
from plinth.gateway.cache.flights import Flight, Flights, Listener
from plinth.gateway.cache.memory import AnswerMemory
from plinth.gateway.protocol.resp import RedisError, Reply, command
from plinth.gateway.server.redis import RedisAddress, RedisConnection, connect_to_redis

log = logging.getLogger(__name__)

_OK: Final = 200
_PREFIX: Final = b"plinth:answer:1:"
"""The number goes up when `Answer` changes: gateways of two versions may share one Redis."""
_FETCH_SECONDS: Final = 0.03
"""Longest wait for Redis: what a prompt of some hundred tokens takes to be read."""
_CONNECT_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 1.0
"""Redis is left alone so long after it failed."""
_MOST_UNSETTLED_BYTES: Final = 8 * 1024 * 1024
"""Of answers that Redis has not confirmed; more are not sent to it."""


class RedisAnswers:
    """Answers in Redis, each until its time is up. Requests are never in it, only digests of them.

    A connection of its own: a large answer must not hold up whatever else goes to Redis. It is made when it is
    needed, and again some time after it broke.
    """

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._connection: RedisConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._away_until = 0.0
        self._unsettled = 0
        self._told = False
        """The log says that it is away."""
        self.dropped = 0
        """Answers not kept in Redis since it was slow, full or away."""

    def is_near(self, now: float) -> bool:
        """Whether Redis may be asked; begins to connect where that is due. `now` is monotonic."""
        if self._connection is not None:
            return True
        if self._connecting is None and now >= self._away_until:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        return False

    async def find(self, key: bytes) -> tuple[Answer, float] | None:
        """The answer and the seconds that it stays; None as well when Redis is slow or away."""
        connection, name = self._connection, _PREFIX + key
        if connection is None:
            return None
        replies: list[Reply] = []
        answered = asyncio.get_running_loop().create_future()

        def settle(reply: Reply) -> None:
            replies.append(reply)
            if not answered.done():
                answered.set_result(None)

        connection.send(command(b"GET", name), replies.append)
        connection.send(command(b"PTTL", name), settle)
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                await answered
        except TimeoutError:
            self._go_away("it is slow")
            return None
        packed, milliseconds = replies
        if not isinstance(packed, bytes) or not isinstance(milliseconds, int) or milliseconds <= 0:
            return None
        answer = unpack(packed)
        return (answer, milliseconds / 1000) if answer is not None else None

    def keep(self, key: bytes, answer: Answer, seconds: float, now: float) -> None:
        """Sends the answer without waiting."""
        weight = answer.weight
        if not self.is_near(now) or self._unsettled + weight > _MOST_UNSETTLED_BYTES:
            self.dropped += 1
            return
        self._unsettled += weight

        def settle(reply: Reply) -> None:
            self._unsettled -= weight
            if isinstance(reply, RedisError):
                self.dropped += 1

        assert self._connection is not None  # noqa: S101 - it is near
        milliseconds = b"%d" % max(1, int(seconds * 1000))
        self._connection.send(command(b"SET", _PREFIX + key, pack(answer), b"PX", milliseconds), settle)

    async def close(self) -> None:
        """Hangs up."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def _connect(self) -> None:
        try:
            self._connection = await connect_to_redis(self._address, self._on_lost, _CONNECT_SECONDS)
            self._told = False
        except (OSError, RedisError) as error:
            self._go_away(str(error) or "no reply")
        finally:
            self._connecting = None

    def _on_lost(self) -> None:
        if self._connection is not None:
            self._go_away("the connection is lost")

    def _go_away(self, detail: str) -> None:
        log.log(
            logging.DEBUG if self._told else logging.WARNING,
            "the response cache goes on without Redis: %s",
            detail,
        )
        self._told = True
        self._away_until = time.monotonic() + _PAUSE_SECONDS
        self._unsettled = 0
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class ResponseCache:
    """What the data path asks, in this order: `find`, then `share`, then `lead`; `keep` when an answer is complete."""

    def __init__(
        self, *, most_bytes: int, answer_bytes: int, flight_bytes: int, redis: RedisAddress | None = None
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

    def dropped(self) -> int:
        """Answers that Redis did not take."""
        return self.redis.dropped if self.redis is not None else 0

    async def close(self) -> None:
        """Hangs up; requests that wait for Redis lead."""
        if self.redis is not None:
            await self.redis.close()
        if self._fetching:
            await asyncio.wait(self._fetching)

    async def _fetch(self, redis: RedisAnswers, flight: Flight) -> None:
        found = await redis.find(flight.key)
        if found is None:
            flight.give_up()
            return
        answer, seconds = found
        self.memory.keep(flight.key, answer, seconds, time.monotonic())
        flight.tokens = (answer.prompt_tokens, answer.output_tokens)
        flight.deliver(_OK, answer.headers, answer.body, outcome=HIT)
