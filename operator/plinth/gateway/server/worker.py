"""A worker's end of the channel to its parent: the control protocol, seats, the order to listen, metrics of all.

To the rest of the process the parent is its controller. When the channel closes the parent is dead: nobody would send
tables or start a successor, so the worker drains and leaves.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from plinth.domain.access import AccessTable
from plinth.domain.traffic import LoadReport, RouteTable
from plinth.gateway.server import worker_lines
from plinth.gateway.server.control import ControlConnection, ControlServer
from plinth.gateway.server.worker_lines import Exposition, Listen, Listening, Scrape, Seats

log = logging.getLogger(__name__)

SCRAPE_SECONDS: Final = 1.0
"""For the parent's answer; then a worker shows what it has counted itself."""


@dataclass(frozen=True, kw_only=True)
class WorkerHooks:
    """What the parent makes a worker do."""

    on_seats: Callable[[Seats], None]
    """Before each table that needs them."""
    on_table: Callable[[RouteTable], None]
    on_access: Callable[[AccessTable], None]
    on_listen: Callable[[], None]
    """Called once, after the newest tables if there are any."""
    on_shutdown: Callable[[float], None]
    """With the seconds to drain in."""
    make_report: Callable[[], LoadReport]
    is_busy: Callable[[], bool]
    make_exposition: Callable[[], str]
    """This worker's own metrics."""
    drain_seconds: float
    """When the parent dies."""


class WorkerControl(ControlServer):
    """A control server whose one controller is the parent, on a socket that is there from the start."""

    def __init__(self, hooks: WorkerHooks) -> None:
        super().__init__(
            on_table=hooks.on_table,
            on_access=hooks.on_access,
            on_shutdown=hooks.on_shutdown,
            make_report=hooks.make_report,
            is_busy=hooks.is_busy,
        )
        self._hooks = hooks
        self._scrapes: dict[int, asyncio.Future[str]] = {}
        self._scrape_number = 0
        self._leaving = False

    async def join(self, descriptor: int) -> None:
        """Takes up the conversation with the parent."""
        await asyncio.get_running_loop().create_unix_connection(
            lambda: ControlConnection(self), sock=socket.socket(fileno=descriptor)
        )

    def listening(self) -> None:
        """Tells the parent that clients are accepted, and by which table."""
        self._send_line(Listening())
        self.report_now()

    async def exposition(self) -> str:
        """What all workers have counted, in Prometheus' text format."""
        self._scrape_number += 1
        number = self._scrape_number
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._scrapes[number] = answer
        self._send_line(Scrape(number))
        try:
            async with asyncio.timeout(SCRAPE_SECONDS):
                return await answer
        except TimeoutError:
            return self._hooks.make_exposition()
        finally:
            del self._scrapes[number]

    def close(self) -> None:
        """Sends a last report and hangs up."""
        self._leaving = True
        super().close()

    def on_line(self, connection: ControlConnection, line: bytes) -> None:
        """A line of the parent's own, or of the control protocol."""
        try:
            message = worker_lines.decode(line)
        except ValueError as error:
            log.warning("the parent's line ignored: %s", error)
            return
        if message is None:
            super().on_line(connection, line)
        elif isinstance(message, Seats):
            self._hooks.on_seats(message)
        elif isinstance(message, Listen):
            self._hooks.on_listen()
        elif isinstance(message, Scrape):
            self._send_line(Exposition(message.number, self._hooks.make_exposition()))
        elif isinstance(message, Exposition):
            waiting = self._scrapes.get(message.number)
            if waiting is not None and not waiting.done():
                waiting.set_result(message.text)

    def on_gone(self, connection: ControlConnection) -> None:
        """The parent has died, unless it was this worker that hung up."""
        super().on_gone(connection)
        if not self._leaving:
            log.error("the parent of this worker is gone: draining")
            self._hooks.on_shutdown(self._hooks.drain_seconds)

    def _send_line(self, line: worker_lines.Line) -> None:
        if self._current is not None and self._current.transport is not None:
            self._current.transport.write(worker_lines.encode(line))
