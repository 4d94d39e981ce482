"""One worker process as its parent sees it: started, spoken with, ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence
from typing import Final

from plinth.domain.control_lines import encode_shutdown
from plinth.domain.traffic import LoadReport
from plinth.gateway.server import worker_lines
from plinth.gateway.server.worker_lines import Place

log = logging.getLogger(__name__)

WORKER_FLAG: Final = "--worker"
"""Followed by the place, as JSON."""
_LONGEST_LINE: Final = 64 * 1024 * 1024
_LEAVE_SECONDS: Final = 5.0
"""From the end of the channel to the end of the process, which has nothing left to do."""


class WorkerProcess:
    """A process and the channel to it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        *,
        place: int,
        lane: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.pid = process.pid
        """Its key: no two workers alive, or not yet buried, have the same."""
        self.place = place
        """Which of the gateway's listeners it serves."""
        self.lane = lane
        self.started_at = asyncio.get_running_loop().time()
        self.heard_at = self.started_at
        self.listening = False
        """It accepts clients."""
        self.settled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether it came to accept clients, as soon as that is known."""
        self.leaving = False
        """It has been told to drain."""
        self.report: LoadReport | None = None
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(
        cls, command: Sequence[str], given: Place, *, place: int, theirs: socket.socket, ours: socket.socket
    ) -> WorkerProcess:
        """Starts the command with its place; raises OSError.

        In a session of its own: signals from a terminal reach the parent alone, which passes on what they mean.
        """
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command,
                WORKER_FLAG,
                given.to_argument(),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(given.control, given.listener, given.memory, given.news, *given.wakes),
                start_new_session=True,
            )
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_LONGEST_LINE)
        return cls(process, place=place, lane=given.lane, reader=reader, writer=writer)

    def set_listening(self, listening: bool) -> None:  # noqa: FBT001 - the attribute's value
        """It accepts clients from now on, or never again."""
        self.listening = listening
        if not self.settled.done():
            self.settled.set_result(listening)

    def send(self, line: bytes) -> None:
        """Any line, newline included."""
        if not self._writer.is_closing():
            self._writer.write(line)

    def tell(self, line: worker_lines.Line) -> None:
        """A line of the parent's own."""
        self.send(worker_lines.encode(line))

    def leave(self, deadline_seconds: float) -> None:
        """Makes it drain within so many seconds."""
        self.leaving = True
        self.send(encode_shutdown(deadline_seconds))

    async def next_line(self) -> bytes:
        """The next line; empty at the end of the channel."""
        with contextlib.suppress(OSError, ValueError):
            line = await self._reader.readline()
            if line.endswith(b"\n"):  # else its writer died within it
                self.heard_at = asyncio.get_running_loop().time()
                return line
        return b""

    def kill(self) -> None:
        """Ends it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def wait(self) -> int:
        """The exit status, once the channel has ended; negative for a signal."""
        try:
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self._process.wait()
        except TimeoutError:
            log.warning("worker %d has hung up and does not leave: killed", self.pid)
            self.kill()
        self._writer.close()
        return await self._process.wait()
