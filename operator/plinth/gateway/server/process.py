"""The gateway's processes: one that serves, or a parent and its workers. Each starts, serves, drains, leaves."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from plinth.gateway.options import Options, parse_options
from plinth.gateway.server.control import ControlServer
from plinth.gateway.server.local import readiness
from plinth.gateway.server.monitor import MonitorServer
from plinth.gateway.server.serving import Serving
from plinth.gateway.server.worker_gateway import WorkerGateway
from plinth.gateway.server.worker_lines import Place
from plinth.gateway.server.workers import PoolOptions, WorkerPool
from plinth.gateway.shared_options import with_password

_GC_THRESHOLD: Final = 50_000


class GatewayProcess(Serving):
    """A gateway of one process; `start`, then `wait`."""

    def __init__(self, options: Options, secret: str) -> None:
        self._options = options
        self.control = ControlServer(
            on_table=self.route_by,
            on_access=self.admit_by,
            on_shutdown=self.drain,
            make_report=self.make_report,
            is_busy=self.is_busy,
        )
        self._controllers: asyncio.Server | None = None
        super().__init__(options, secret, news=self.control)
        self.monitor = MonitorServer(
            metrics=self._metrics,
            readiness=lambda: readiness(draining=self.core.draining, has_tables=self.core.has_tables()),
        )

    @property
    def identity(self) -> str:
        """Under which reports are sent."""
        return self.core.identity

    async def start(self) -> None:
        """Listens; raises OSError when an address is taken."""
        await self.listen((self._options.host, self._options.port))
        if self._options.metrics_port is not None:
            await self.monitor.listen(self._options.host, self._options.metrics_port)
        self._controllers = await self.control.listen(self._options.control)

    async def close(self) -> None:
        """Closes what is open."""
        self.control.close()
        self.monitor.close()
        if self._controllers is not None:
            self._controllers.close()
        await super().close()
        self._options.control.unlink(missing_ok=True)

    async def _metrics(self) -> bytes:
        return self.core.metrics.text()


def make_pool(options: Options, arguments: Sequence[str]) -> WorkerPool:
    """A gateway of several processes, each started by this one's own command line and its place."""
    return WorkerPool(
        PoolOptions(
            command=(sys.executable, "-m", "plinth.gateway", *arguments),
            workers=options.workers,
            host=options.host,
            port=options.port,
            control=options.control,
            metrics_port=options.metrics_port,
            counts=options.shared.redis is None,
            drain_seconds=options.limits.drain_seconds,
        )
    )


async def _run_gateway(options: Options, secret: str, arguments: Sequence[str]) -> int:
    try:
        gateway = make_pool(options, arguments) if options.workers > 1 else GatewayProcess(options, secret)
    except (OSError, ValueError) as error:
        return _complain(f"cannot use its certificates: {error}")
    _drain_on_signals(gateway.drain, options)
    try:
        try:
            await gateway.start()
        except OSError as error:
            return _complain(f"cannot listen: {error}")
        if isinstance(gateway, WorkerPool):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, gateway.reload_soon)
        announcement = {
            "listening": _text(gateway.address),
            "metrics": _text(gateway.monitor.address),
            "control": str(options.control),
            "gateway": gateway.identity,
        }
        sys.stdout.write(msgspec.json.encode(announcement).decode() + "\n")
        sys.stdout.flush()
        _spare_the_collector()
        await gateway.wait()
    finally:
        await gateway.close()
    return 0


async def _run_worker(options: Options, secret: str, place: Place) -> int:
    try:
        worker = WorkerGateway(options, secret, place)
    except (OSError, ValueError) as error:
        return _complain(f"cannot use its certificates: {error}")
    _drain_on_signals(worker.drain, options)
    _spare_the_collector()
    try:
        await worker.start()
        await worker.wait()
    finally:
        await worker.close()
    return 0


def _drain_on_signals(drain: Callable[[float], None], options: Options) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drain, options.limits.drain_seconds)


def _spare_the_collector() -> None:
    """What exists now lives as long as the process: the collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 20)


def _allow_many_sockets() -> None:
    """The soft limit of many systems is 1,024 files; connections are bounded by our own flag."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def read_secret(path: Path) -> str:
    """The secret that replicas ask for; raises ValueError when there is none."""
    secret = path.read_text(encoding="utf-8").strip()
    if not secret or not secret.isprintable() or not secret.isascii():
        raise ValueError(f"{path} must hold the secret: one line of printable ASCII")
    return secret


def main(arguments: list[str] | None = None) -> int:
    """Runs the gateway until it has drained; 0 in peace, 1 when it could not start."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_options(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format=f"%(asctime)s %(levelname)s {_who(options)}%(name)s: %(message)s",
    )
    try:
        secret = read_secret(options.secret_file)
        options = replace(options, shared=with_password(options.shared))
    except (OSError, ValueError) as error:
        return _complain(f"cannot read its files: {error}")
    _allow_many_sockets()
    running = (
        _run_worker(options, secret, options.worker)
        if options.worker is not None
        else _run_gateway(options, secret, arguments)
    )
    status: int = uvloop.run(running)
    return status


def _text(address: tuple[str, int]) -> str:
    """HOST:PORT; empty where nothing listens."""
    host, port = address
    return f"{host}:{port}" if port else ""


def _complain(what: str) -> int:
    """One line for whoever started this process; the exit status."""
    sys.stderr.write(f"plinth.gateway: {what}\n")
    return 1


def _who(options: Options) -> str:
    """Says whose line of the common log this is, where several write to it."""
    return "worker %(process)d " if options.worker is not None else ""
