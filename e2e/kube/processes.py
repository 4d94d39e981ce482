"""The processes of a cluster: started with a log, recorded so that any later run can end them, ended by id."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE_SECONDS = 10.0
LOG_TAIL_LINES = 20
FIRST_PORT, LAST_PORT = 20_000, 32_000
"""Below the range that the kernel gives to outgoing connections: a port that is free stays so across a restart."""


@dataclass(frozen=True)
class ProcessId:
    """One process for ever: ids are used again, together with the start (clock ticks since boot) they are not."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        return cls(pid, _started(pid) or 0)

    def lives(self) -> bool:
        return _started(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        if self.lives():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _started(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


class ProcessDiedError(Exception):
    """A process ended that should run; carries the end of its log."""


class Process:
    """A program of the cluster: it can be stopped, killed and started again, with the same command and log."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        record: Callable[[ProcessId], None],
    ) -> None:
        self.command = [str(word) for word in command]
        self.log = log
        self.record = record
        self.environment = {**os.environ, **(environment or {})}
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._running is not None, f"{self.log.stem} is not started"
        return self._running.pid

    def start(self) -> None:
        assert not self.runs(), f"{self.log.stem} runs already"
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.record(ProcessId.of(self._running.pid))

    def runs(self) -> bool:
        return self._running is not None and self._running.poll() is None

    def stop(self) -> None:
        """End it as an administrator would; by force where it does not hear."""
        if self._running is not None and self.runs():
            self._running.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._running.wait(PATIENCE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """SIGKILL, as a crash or the kernel's memory guard would."""
        if self._running is not None:
            self._running.kill()
            self._running.wait(PATIENCE_SECONDS)

    def wait(self, until: Callable[[], bool], *, seconds: float, what: str) -> None:
        """Wait for what this process shall bring about; fails at once where it dies meanwhile."""

        def is_so() -> bool:
            if not self.runs():
                raise ProcessDiedError(f"{self.log.stem} ended; {self.log} ends with:\n{self.log_tail()}")
            return until()

        try:
            wait_until(is_so, seconds=seconds, what=what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; {self.log} ends with:\n{self.log_tail()}") from None

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])


def wait_until(is_so: Callable[[], bool], *, seconds: float, what: str, pause: float = 0.05) -> None:
    """Wait until it is so.

    Raises:
        TimeoutError: it was not within these seconds.
    """
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(pause)


def find_free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing listens on, each another."""
    found: list[int] = []
    with contextlib.ExitStack() as probes:
        while len(found) < count:
            port = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT)
            probe = probes.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
    return found
