"""The control socket: route and access tables in, load reports out. The gateway serves on when nobody is connected."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from plinth.domain.access import AccessTable
from plinth.domain.control_lines import ControlLineError, Shutdown, decode_line, encode_report
from plinth.domain.traffic import LoadReport, RouteTable

log = logging.getLogger(__name__)

BUSY_SECONDS: Final = 0.5
QUIET_SECONDS: Final = 2.0
_LONGEST_LINE: Final = 64 * 1024 * 1024
_MOST_UNREAD: Final = 1024 * 1024
"""A controller that reads nothing gets no more reports until it does: only the newest is worth anything."""


class ControlConnection(asyncio.Protocol):
    """One controller."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._line = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self.transport = transport  # type: ignore[assignment] # a stream socket's is a Transport
        self._server.on_connected(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            whole = bytes(self._line) + line
            self._line.clear()
            if whole.strip():
                self._server.on_line(self, whole)
        self._line += rest
        if len(self._line) > _LONGEST_LINE:
            log.error("control line longer than %d bytes: connection closed", _LONGEST_LINE)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - another will come
        """The connection is gone."""
        self.transport = None
        self._server.on_gone(self)

    def send(self, line: bytes) -> None:
        """Sends a report, unless earlier ones lie unread."""
        if self.transport is not None and self.transport.get_write_buffer_size() < _MOST_UNREAD:
            self.transport.write(line)

    def close(self) -> None:
        """Ends the conversation."""
        if self.transport is not None:
            self.transport.abort()


class ControlServer:
    """Speaks with the newest controller.

    Reports go out at once when asked for, twice a second while something changes, else every two seconds.
    """

    def __init__(
        self,
        *,
        on_table: Callable[[RouteTable], None],
        on_access: Callable[[AccessTable], None],
        on_shutdown: Callable[[float], None],
        make_report: Callable[[], LoadReport],
        is_busy: Callable[[], bool],
    ) -> None:
        self._on_table = on_table
        self._on_access = on_access
        self._on_shutdown = on_shutdown
        self._make_report = make_report
        self._is_busy = is_busy
        self._current: ControlConnection | None = None
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sent_at = 0.0

    async def listen(self, path: Path) -> asyncio.Server:
        """Opens the socket for this user only; raises FileExistsError when another gateway holds it."""
        remove_stale(path)
        loop = asyncio.get_running_loop()
        before = os.umask(0o177)
        try:
            return await loop.create_unix_server(lambda: ControlConnection(self), str(path))
        finally:
            os.umask(before)

    def report_now(self) -> None:
        """Sends a report at the end of this turn of the loop; several causes make one report."""
        if self._soon is None and self._current is not None:
            self._soon = asyncio.get_running_loop().call_soon(self._send)

    def report_soon(self) -> None:
        """Sends a report half a second after the last one; at once when that is past."""
        if self._current is not None:
            loop = asyncio.get_running_loop()
            self._plan(loop, max(0.0, self._sent_at + BUSY_SECONDS - loop.time()))

    def close(self) -> None:
        """Sends a last report and hangs up."""
        if self._current is not None:
            self._send()
            if self._current.transport is not None:
                self._current.transport.close()

    # Connections call these.

    def on_connected(self, connection: ControlConnection) -> None:
        """The newest wins: an old controller may be half dead."""
        before, self._current = self._current, connection
        if before is not None:
            log.info("a newer controller took over")
            before.close()
        self._send()

    def on_gone(self, connection: ControlConnection) -> None:
        """Reports wait for the next controller."""
        if connection is self._current:
            self._current = None
            if self._timer is not None:
                self._timer.cancel()

    def on_line(self, connection: ControlConnection, line: bytes) -> None:
        """One message; a wrong one is logged and changes nothing."""
        if connection is not self._current:
            return
        try:
            message = decode_line(line)
        except ControlLineError as error:
            log.warning("control line ignored: %s", error)
            return
        if isinstance(message, RouteTable):
            self._on_table(message)
        elif isinstance(message, AccessTable):
            self._on_access(message)
        elif isinstance(message, Shutdown):
            self._on_shutdown(message.deadline_seconds)

    def _send(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._current is None:
            return
        self._current.send(encode_report(self._make_report()))
        loop = asyncio.get_running_loop()
        self._sent_at = loop.time()
        self._plan(loop, BUSY_SECONDS if self._is_busy() else QUIET_SECONDS)

    def _plan(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._send)


def remove_stale(path: Path) -> None:
    """Removes a socket that nobody listens on; raises FileExistsError when somebody does."""
    if not path.exists():
        return
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(str(path))
    except OSError:
        path.unlink()
    else:
        raise FileExistsError(f"another gateway listens on {path}")
    finally:
        probe.close()
