"""The gateway's process: starts, serves, drains, leaves."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import time
from functools import partial
from pathlib import Path

import msgspec
import uvloop

from plinth.domain.access import AccessTable
from plinth.domain.traffic import RouteTable
from plinth.gateway.options import Options, parse_options
from plinth.gateway.server.client import ClientConnection
from plinth.gateway.server.control import ControlServer
from plinth.gateway.server.core import Core

log = logging.getLogger(__name__)

_DRAIN_LOOK_SECONDS = 0.05
"""Between looks at whether the last request has ended; only while draining."""
_GC_THRESHOLD = 50_000


class GatewayProcess:
    """One running gateway; `start`, then `wait`."""

    def __init__(self, options: Options, secret: str) -> None:
        self._options = options
        self.control = ControlServer(
            on_table=self._on_table,
            on_access=self._on_access,
            on_shutdown=self.drain,
            make_report=lambda: self.core.fleet.report(self.core.identity),
            is_busy=lambda: self.core.fleet.is_busy(),  # noqa: PLW0108 - the core comes after
        )
        self.core = Core(secret=secret, limits=options.limits, news=self.control)
        self.address = ("", 0)
        """Where clients reach it, once started."""
        self._servers: list[asyncio.Server] = []
        self._draining: asyncio.Task[None] | None = None
        self._over = asyncio.Event()

    async def start(self) -> None:
        """Listens; raises OSError when an address is taken."""
        loop = asyncio.get_running_loop()
        options = self._options
        self._servers.append(
            await loop.create_server(
                partial(ClientConnection, self.core), options.host, options.port, backlog=2048
            )
        )
        self._servers.append(await self.control.listen(options.control))
        self.address = self._servers[0].sockets[0].getsockname()[:2]

    async def wait(self) -> None:
        """Returns when the process is to end."""
        await self._over.wait()

    def drain(self, deadline_seconds: float) -> None:
        """Accepts no more; leaves when the last request has ended, or at the deadline. A second call hurries."""
        if self._draining is not None:
            deadline_seconds = min(deadline_seconds, 0.0)
            self._draining.cancel()
        log.info("draining for at most %g s", deadline_seconds)
        self.core.draining = True
        self._servers[0].close()
        self._draining = asyncio.get_running_loop().create_task(self._drain(deadline_seconds))

    async def close(self) -> None:
        """Closes what is open."""
        if self._draining is not None:
            self._draining.cancel()
        self.control.close()
        self.core.fleet.close()
        for connection in list(self.core.connections):
            connection.kill()
        for server in self._servers:
            server.close()
        await asyncio.sleep(0)
        self._options.control.unlink(missing_ok=True)

    async def _drain(self, deadline_seconds: float) -> None:
        deadline = time.monotonic() + deadline_seconds
        while self.core.active() and time.monotonic() < deadline:
            await asyncio.sleep(_DRAIN_LOOK_SECONDS)
        for connection in list(self.core.connections):
            connection.close_when_idle()
        await asyncio.sleep(_DRAIN_LOOK_SECONDS)
        self._over.set()

    def _on_table(self, table: RouteTable) -> None:
        log.info("route table %d: %d models", table.version, len(table.models))
        self.core.fleet.apply(table)

    def _on_access(self, table: AccessTable) -> None:
        log.info("access table %d: %d keys, %d policies", table.version, len(table.keys), len(table.policies))
        self.core.admit_by(table)


async def _serve(options: Options, secret: str) -> int:
    gateway = GatewayProcess(options, secret)
    try:
        await gateway.start()
    except OSError as error:
        sys.stderr.write(f"plinth.gateway: cannot listen: {error}\n")
        return 1
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, gateway.drain, options.limits.drain_seconds)
    host, port = gateway.address
    announcement = {
        "listening": f"{host}:{port}",
        "control": str(options.control),
        "gateway": gateway.core.identity,
    }
    sys.stdout.write(msgspec.json.encode(announcement).decode() + "\n")
    sys.stdout.flush()
    # What exists now lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 20)
    try:
        await gateway.wait()
    finally:
        await gateway.close()
    return 0


def read_secret(path: Path) -> str:
    """The secret that replicas ask for; raises ValueError when there is none."""
    secret = path.read_text(encoding="utf-8").strip()
    if not secret or not secret.isprintable() or not secret.isascii():
        raise ValueError(f"{path} must hold the secret: one line of printable ASCII")
    return secret


def main(arguments: list[str] | None = None) -> int:
    """Runs the gateway until it has drained; 0 in peace, 1 when it could not start."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    options = parse_options(arguments)
    try:
        secret = read_secret(options.secret_file)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"plinth.gateway: cannot read the secret: {error}\n")
        return 1
    status: int = uvloop.run(_serve(options, secret))
    return status
