"""Carries exchanges with the shared counters to Redis and back, beside the data path.

Redis slow is treated as Redis away: a request never waits longer than one time limit for it. Reports that were not
answered are sent again on the next connection; each counts once. What was used meanwhile is owed and reported
then, and a Redis that has lost its data learns from every gateway what still counts.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from plinth.gateway.limits.exchange import GATEWAYS_KEY, HEARTBEAT, SCRIPT_TEXT, Exchange
from plinth.gateway.limits.sharing import Sharing, Waiting
from plinth.gateway.protocol.resp import RedisError, Reply, command
from plinth.gateway.server.redis import RedisAddress, RedisConnection, connect_to_redis

log = logging.getLogger(__name__)
_SHA: Final = hashlib.sha1(SCRIPT_TEXT, usedforsecurity=False).hexdigest().encode()
_HEARTBEAT_SHA: Final = hashlib.sha1(HEARTBEAT, usedforsecurity=False).hexdigest().encode()
LONGEST_REST_SECONDS: Final = 2.0


@dataclass(frozen=True)
class LeaseTimes:
    """Seconds."""

    report: float = 0.1
    """Between reports of leases in use."""
    answer: float = 0.05
    """That Redis gets to answer; then it counts as away."""
    rest: float = 0.1
    """Before a Redis that was slow twice within `forgiven` is asked again; doubled each time, up to 2 s."""
    forgiven: float = 5.0
    heartbeat: float = 1.0
    dead: float = 5.0
    """Without an answer before the connection is given up."""
    connect: float = 1.0
    reunion: float = 0.5
    """From a connection made anew until the shared counters are relied on; longer than `reconnect`."""
    reconnect: float = 0.2


class Leases:
    """From `start` until `stop`. All methods are for the event loop's own thread."""

    def __init__(self, address: RedisAddress, sharing: Sharing, times: LeaseTimes | None = None) -> None:
        self._address = address
        self._sharing = sharing
        self._times = times = times or LeaseTimes()
        self._loop = asyncio.get_running_loop()
        self._connection: RedisConnection | None = None
        self._unanswered: deque[tuple[Exchange, float]] = deque()
        """With the time of sending, oldest first."""
        self._lost = asyncio.Event()
        self._asking = False
        self._next_heartbeat = 0.0
        self._rest = 0.0
        self._went_away_at = -times.forgiven
        self._task: asyncio.Task[None] | None = None
        self._ticks: asyncio.TimerHandle | None = None

    @property
    def away(self) -> bool:
        """Whether each gateway counts apart for now."""
        return self._sharing.backend.away

    def start(self) -> None:
        """Begins to connect. Until Redis has answered it counts as away."""
        self._task = self._loop.create_task(self._stay_connected())
        self._ticks = self._loop.call_later(self._times.report, self._tick)

    async def stop(self) -> None:
        """Gives back what is leased, if Redis takes it within two time limits, and hangs up."""
        if self._ticks is not None:
            self._ticks.cancel()
        for _ in range(2):  # the first report keeps what was in use, the second nothing
            if not self._sharing.backend.away:
                self._send(self._sharing.report(time.monotonic()))
                await self._answered()
        if self._task is not None:
            self._task.cancel()
        if self._connection is not None:
            self._connection.close()

    async def _answered(self) -> None:
        until = time.monotonic() + self._times.answer
        while self._unanswered and time.monotonic() < until:
            await asyncio.sleep(0.001)

    def wait(self, waiting: Waiting) -> None:
        """For a request that the limiter could not decide: its `decide` is called within the time limit."""
        self._sharing.wait(waiting)
        if not self._asking:
            self._asking = True
            self._loop.call_soon(self._ask)  # with all others of this turn of the loop

    def _ask(self) -> None:
        self._asking = False
        now = time.monotonic()
        if self._sharing.backend.away:
            self._sharing.decide(now)
        else:
            self._send(self._sharing.ask(now))

    def _tick(self) -> None:
        self._ticks = self._loop.call_later(self._times.report, self._tick)
        now = time.monotonic()
        if self._sharing.backend.away:
            self._watch(now)
        else:
            self._send(self._sharing.report(now))
        if self._connection is not None and not self._unanswered and now >= self._next_heartbeat:
            self._probe(now)

    def _send(self, exchanges: Iterable[Exchange]) -> None:
        connection = self._connection
        for exchange in exchanges:
            now = time.monotonic()
            if not self._unanswered:
                self._loop.call_later(self._times.answer, self._watch_for_answer)
            self._unanswered.append((exchange, now))
            if connection is not None:
                connection.send(_evalsha(exchange), self._on_answer)

    def _on_answer(self, reply: Reply) -> None:
        now = time.monotonic()
        exchange, _ = self._unanswered[0]
        if not isinstance(reply, list):
            self._give_up(reply)
            return
        self._unanswered.popleft()
        try:
            self._sharing.apply(exchange, [int(number) for number in reply if isinstance(number, int)], now)
        except ValueError as error:
            self._give_up(error)
            return
        if self._sharing.backend.away and not self._unanswered and now >= self._next_heartbeat:
            self._probe(now)
        if self._sharing.has_waiting() and not self._asking:
            self._asking = True
            self._loop.call_soon(self._ask)

    def _watch_for_answer(self) -> None:
        """The gateway itself may be late: what has come meanwhile is read before anybody is blamed."""
        self._loop.call_later(0.001, self._look_for_answer)

    def _look_for_answer(self) -> None:
        now = time.monotonic()
        self._watch(now)
        if self._unanswered and not self._sharing.backend.away:
            left = self._unanswered[0][1] + self._times.answer - now
            self._loop.call_later(max(0.001, left), self._watch_for_answer)

    def _watch(self, now: float) -> None:
        """Too late an answer puts Redis away; none at all ends the connection."""
        if not self._unanswered:
            return
        silent = now - self._unanswered[0][1]
        if silent >= self._times.answer:
            self._go_away(now, f"Redis has not answered for {silent * 1000:.0f} ms")
        if silent >= self._times.dead and self._connection is not None:
            self._connection.close()

    def _probe(self, now: float) -> None:
        """Asks how many gateways there are. A timely answer ends the time away."""
        assert self._connection is not None  # noqa: S101 - callers look
        self._next_heartbeat = now + self._times.heartbeat
        request = command(b"EVALSHA", _HEARTBEAT_SHA, b"1", GATEWAYS_KEY, self._sharing.gateway.encode())

        def answered(reply: Reply) -> None:
            if not isinstance(reply, int):
                self._give_up(reply)
                return
            backend = self._sharing.backend
            backend.count_gateways(reply, time.monotonic())
            if not backend.away or self._unanswered:
                return
            if time.monotonic() - now <= self._times.answer:
                backend.away = False
                log.info("the shared counters are back, %d gateways use them", backend.gateways)
                self._send(self._sharing.report(time.monotonic()))
            else:
                self._rest_longer(time.monotonic())

        self._connection.send(request, answered)

    def _go_away(self, now: float, detail: str) -> None:
        backend = self._sharing.backend
        if not backend.away:
            log.warning("limits are counted apart for now: %s", detail)
            backend.away = True
            backend.absences += 1
            self._rest_longer(now)
        self._sharing.decide(now)

    def _rest_longer(self, now: float) -> None:
        """A single late answer is forgiven at once, many are not: else each pause of Redis would delay requests."""
        times = self._times
        again = now - self._went_away_at < times.forgiven
        self._rest = min(LONGEST_REST_SECONDS, max(times.rest, 2 * self._rest)) if again else 0.0
        self._went_away_at = now
        self._next_heartbeat = now + self._rest

    def _give_up(self, reply: object) -> None:
        """Redis answers, but not what it should: a new connection loads the scripts anew."""
        self._go_away(time.monotonic(), f"Redis answers {reply!r}")
        if self._connection is not None:
            self._connection.close()

    def _on_lost(self) -> None:
        self._connection = None
        self._go_away(time.monotonic(), "the connection to Redis is lost")
        self._lost.set()

    async def _stay_connected(self) -> None:
        while True:
            self._lost.clear()
            try:
                connection = await connect_to_redis(self._address, self._on_lost, self._times.connect)
                await self._take_over(connection)
            except (OSError, RedisError) as error:
                log.debug("no connection to Redis: %s", error)
            else:
                await self._lost.wait()
            await asyncio.sleep(self._times.reconnect)

    async def _take_over(self, connection: RedisConnection) -> None:
        """Loads the scripts, sends again what was never answered, and asks whether all is well."""
        try:
            async with asyncio.timeout(self._times.connect):
                await connection.ask(b"SCRIPT", b"LOAD", SCRIPT_TEXT)
                await connection.ask(b"SCRIPT", b"LOAD", HEARTBEAT)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        now = time.monotonic()
        self._unanswered = deque((exchange, now) for exchange, _ in self._unanswered)
        for exchange, _ in self._unanswered:
            connection.send(_evalsha(exchange), self._on_answer)
        self._send(self._sharing.report_all(now))
        # Where something counts, the other gateways get time to say the same before anybody relies on the sum.
        self._next_heartbeat = now + (self._times.reunion if self._unanswered else 0.0)
        if not self._unanswered:
            self._probe(now)


def _evalsha(exchange: Exchange) -> bytes:
    keys = exchange.keys
    return command(b"EVALSHA", _SHA, b"%d" % len(keys), *keys, *exchange.arguments)
