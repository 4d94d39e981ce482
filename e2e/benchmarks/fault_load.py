"""What clients do while something fails: twenty long streams at any time, and five short requests a second.

Clients do not try again, so what fails is seen. One that hangs up at the end of a fault's time has not failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import aiohttp
from streams import StreamResult, stream_once

STREAMS = 20
TOKENS = 900
PER_SECOND = 5
SHORT_TOKENS = 2
PATIENCE_SECONDS = 60.0
"""For a short request; on two cores with twenty streams an answer takes seconds."""


@dataclass
class Load:
    """Counts, while it runs."""

    url: str
    model: str
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    """Requests that never got a first byte."""
    cuts: list[str] = field(default_factory=list)
    """Answers, long or short, that broke after their first byte."""
    streamed: int = 0
    longest_seconds: float = 0.0
    """Of the short requests."""
    begun: float = field(default_factory=time.monotonic)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; then the short requests under way get to end, and the streams are hung up on."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=PATIENCE_SECONDS)
        # A connection each: the Service then spreads them over the gateways.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            users = [asyncio.create_task(self._stream(session)) for _ in range(STREAMS)]
            shorts: set[asyncio.Task[None]] = set()
            while not stop.is_set():
                shorts.add(asyncio.create_task(self._ask(session)))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1 / PER_SECOND):
                        await stop.wait()
            await asyncio.wait(shorts, timeout=PATIENCE_SECONDS)
            for user in users:
                user.cancel()
            await asyncio.wait(users)

    async def _stream(self, session: aiohttp.ClientSession) -> None:
        while True:
            self.streamed += 1
            result = await stream_once(session, self.url, self.model, tokens=TOKENS)
            if result.complaint:
                self._note(result)
                await asyncio.sleep(1)

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        begun = time.monotonic()
        result = await stream_once(session, self.url, self.model, tokens=SHORT_TOKENS)
        self.longest_seconds = max(self.longest_seconds, time.monotonic() - begun)
        if result.complaint:
            self._note(result)
        else:
            self.answered += 1

    def _note(self, result: StreamResult) -> None:
        """The gateway has sent a first byte of what it calls broken; before that it tries another replica."""
        is_cut = (
            result.events or "stream_broken" in result.complaint or "ClientPayloadError" in result.complaint
        )
        where = self.cuts if is_cut else self.failures
        where.append(f"{time.monotonic() - self.begun:.1f} s: {result.complaint}")


@contextlib.contextmanager
def under_load(url: str, model: str) -> Iterator[Load]:
    """Clients at work in a thread of their own for as long as the block runs; all have begun when it does."""
    load, stop, loop = Load(url, model), asyncio.Event(), asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(load.run(stop)))
    thread.start()
    try:
        yield load
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
