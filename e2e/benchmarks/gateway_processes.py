"""Processes of the gateway's benchmarks: pinned to a core, asked for their CPU time and memory, ended with the run."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

PROC = Path("/proc")
_GRACE_SECONDS = 5.0


class Proxy:
    """Whatever is measured: a process with its children, that is stopped while others are measured."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.pid = process.pid
        self.port = port

    def cpu_seconds(self) -> float:
        """CPU time of all its threads so far, in nanoseconds' steps. Threads that ended are not in it."""
        spent = 0
        for pid in family(self.pid):
            for thread in PROC.glob(f"{pid}/task/*/schedstat"):
                with suppress(OSError):
                    spent += int(thread.read_text().split()[0])
        return spent / 1e9

    def rss_mib(self) -> float:
        """Resident memory of all its processes together."""
        pages = 0
        for pid in family(self.pid):
            with suppress(OSError):
                pages += int((PROC / str(pid) / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def rest(self) -> None:
        """Stops it, so that its threads take nothing from whoever is measured."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    async def end(self) -> None:
        """Ends all its processes; those that do not go in peace are killed."""
        if self.process.returncode is not None:
            return
        self.wake()
        family_then = list(family(self.pid))
        self.process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), _GRACE_SECONDS)
        for pid in family_then:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        for pid in family(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def family(root: int) -> Iterator[int]:
    """A process and all that came of it."""
    children: dict[int, list[int]] = {}
    for stat in PROC.glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children.get(pid, [])


@asynccontextmanager
async def pinned(
    *command: str, core: int, port: int, folder: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Proxy]:
    """A proxy on one core; what it says goes to a file of the folder."""
    with (folder / f"{port}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "taskset",
            "--cpu-list",
            str(core),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, **(environment or {})},
        )
    proxy = Proxy(process, port)
    try:
        yield proxy
    finally:
        await proxy.end()


async def until(ready: Callable[[], bool], seconds: float, *, proxy: Proxy, folder: Path) -> None:
    """Waits; says what the process said when it ends before, or does not come."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await asyncio.to_thread(ready):
        late = asyncio.get_running_loop().time() > deadline
        if late or proxy.process.returncode is not None:
            said = (folder / f"{proxy.port}.log").read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{'not ready in time' if late else 'ended at once'}:\n{said}")
        await asyncio.sleep(0.1)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
