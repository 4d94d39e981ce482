"""Notices a dead replica whether or not requests are in flight: one idle connection is held open to each.

The kernel closes the connection when the process dies. Closing alone proves nothing, since servers close idle
connections too (llama.cpp after 5 s): only when no new one can be made is the replica dead. A host that vanishes
without a word closes nothing; for that a silent replica is connected to every few seconds. A process that hangs still
has connections taken for it by the kernel: requests notice that (`Replica.question`), and tell.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from plinth.gateway.server.upstream import ConnectionPool

BURST_SECONDS: Final = (0.0, 0.005, 0.02, 0.05, 0.1, 0.15)
"""Waits before each attempt to connect again; dead after 0.33 s of refusals."""
RETRY_DEAD_SECONDS: Final = 1.0
SHORT_LIFE_SECONDS: Final = 0.2
"""A server that accepts and closes at once must not make the sentinel spin."""


class Watched(Protocol):
    """What hears about the replica's life."""

    def on_suspected(self) -> None:
        """Its connection closed; it is not known yet whether it lives."""

    def on_alive(self) -> None:
        """It takes connections."""

    def on_dead(self, detail: str, *, silent: bool) -> None:
        """It does not; `silent` when attempts got no reply at all, so that open connections are worth nothing."""


class _IdleConnection(asyncio.Protocol):
    """Sends nothing, expects nothing, tells when it closes."""

    def __init__(self, on_close: Callable[[_IdleConnection], None]) -> None:
        self._on_close = on_close
        self.transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why it closed does not matter
        """The connection is gone."""
        self.transport = None
        self._on_close(self)


@dataclass(frozen=True)
class SentinelTimes:
    """Seconds."""

    connect: float
    check: float


class Sentinel:
    """Watches one replica until stopped."""

    def __init__(
        self,
        pool: ConnectionPool,
        watched: Watched,
        times: SentinelTimes,
        answers: Callable[[], Awaitable[bool]],
    ) -> None:
        """`answers` asks the replica something, and tells whether anything came back."""
        self._pool = pool
        self._answers = answers
        self._hang = ""
        self._watched = watched
        self._times = times
        self._stir = asyncio.Event()
        self._connection: _IdleConnection | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to watch."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    def stop(self) -> None:
        """Closes the connection and watches no more."""
        if self._task is not None:
            self._task.cancel()
        self._close()

    def doubt(self) -> None:
        """A request failed at the replica: look at once."""
        self._close()
        self._stir.set()

    def hang(self, detail: str) -> None:
        """The replica takes connections, but answers nothing: dead until it answers."""
        self._hang = detail
        self.doubt()

    async def _watch(self) -> None:
        while True:
            failure = await self._connect_in_burst()
            if failure is None:
                self._watched.on_alive()
                began = time.monotonic()
                failure = await self._until_doubtful()
                self._watched.on_suspected()
                if self._hang:
                    failure = TimeoutError(self._hang)
                if not isinstance(failure, TimeoutError):  # silence has been waited for long enough
                    if time.monotonic() - began < SHORT_LIFE_SECONDS:
                        await asyncio.sleep(SHORT_LIFE_SECONDS)
                    continue
            silent = isinstance(failure, TimeoutError)
            self._watched.on_dead(str(failure) or "no reply", silent=silent)
            while await self._try_to_connect() is not None or (self._hang and not await self._answers()):
                await asyncio.sleep(RETRY_DEAD_SECONDS)
            self._hang = ""

    async def _connect_in_burst(self) -> OSError | None:
        failure: OSError | None = None
        for wait in BURST_SECONDS:
            await asyncio.sleep(wait)
            failure = await self._try_to_connect()
            # Silence has cost the whole connect limit already; more attempts would only delay the verdict.
            if failure is None or isinstance(failure, TimeoutError):
                break
        return failure

    async def _try_to_connect(self) -> OSError | None:
        self._stir.clear()
        if self._connection is not None and self._connection.transport is not None:
            return None
        try:
            async with asyncio.timeout(self._times.connect):
                _, self._connection = await asyncio.get_running_loop().create_connection(
                    lambda: _IdleConnection(self._on_close), self._pool.host, self._pool.port
                )
        except OSError as error:
            return error
        if self._connection.transport is None:
            self._stir.set()  # closed before anyone could listen
        self._pool.last_heard = time.monotonic()
        return None

    async def _until_doubtful(self) -> OSError | None:
        """Returns when the connection closed or a request failed; or with the failure of a silent replica's check."""
        while True:
            silent = time.monotonic() - self._pool.last_heard
            try:
                async with asyncio.timeout(max(0.0, self._times.check - silent)):
                    await self._stir.wait()
            except TimeoutError:
                if time.monotonic() - self._pool.last_heard < self._times.check:
                    continue
                if (failure := await self._check()) is not None:
                    self._close()
                    return failure
            else:
                return None

    async def _check(self) -> OSError | None:
        """A second, short connection: the idle one says nothing about a host that vanished."""
        try:
            async with asyncio.timeout(self._times.connect):
                loop = asyncio.get_running_loop()
                transport, _ = await loop.create_connection(
                    asyncio.Protocol, self._pool.host, self._pool.port
                )
        except OSError as error:
            return error
        transport.close()
        self._pool.last_heard = time.monotonic()
        return None

    def _on_close(self, connection: _IdleConnection) -> None:
        if connection is self._connection:
            self._stir.set()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and connection.transport is not None:
            connection.transport.abort()  # type: ignore[attr-defined] # a stream socket's transport has it
