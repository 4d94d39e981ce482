"""The gateway's process: started on its own, found again after a crash of the rest, asked to drain at the end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from plinth.cluster.processes import end_processes, instance_environment, spawn
from plinth.cluster.state_dir import ProcessRef

START_SECONDS = 10.0


class GatewayStartError(Exception):
    """The gateway could not be started; the message is one clear line."""


@dataclass(frozen=True, kw_only=True)
class GatewayProcess:
    """A running gateway and where it listens."""

    process: ProcessRef
    host: str
    port: int

    @property
    def endpoint(self) -> str:
        """The OpenAI API's base URL."""
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104 - compared, not bound
        return f"http://{host}:{self.port}/v1"


async def start_gateway(
    instance: str, *, host: str, port: int, control: Path, secret_file: Path, log_file: Path
) -> GatewayProcess:
    """Start the gateway and wait until it listens. Raises GatewayStartError."""
    _refuse_taken_port(host, port)
    control.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "plinth.gateway", "--listen", f"{host}:{port}"),
        *("--control", str(control), "--secret-file", str(secret_file)),
    ]
    pid = spawn(command, environment=instance_environment(instance), log_file=log_file)
    try:
        gateway = GatewayProcess(process=ProcessRef.of("gateway", pid), host=host, port=port)
    except ProcessLookupError as error:
        raise GatewayStartError(f"the gateway ended at once; its log is {log_file}") from error
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_SECONDS
    while not control.exists():
        if not gateway.process.is_running() or loop.time() > deadline:
            last = log_file.read_text(errors="replace").strip().splitlines()[-1:]
            raise GatewayStartError(f"the gateway did not start: {' '.join(last) or 'it wrote nothing'}")
        await asyncio.sleep(0.02)
    return gateway


async def wait_until_ended(gateway: GatewayProcess, seconds: float) -> None:
    """Wait for a gateway that was asked to drain; end it when it takes longer than it was given."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while gateway.process.is_running() and loop.time() < deadline:
        await asyncio.sleep(0.05)
    if gateway.process.is_running():
        await end_processes([gateway.process.pid], patience_seconds=1.0)


def _refuse_taken_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise GatewayStartError(
                f"{host}:{port} cannot be listened on ({error.strerror}); choose another with --listen HOST:PORT"
            ) from error
