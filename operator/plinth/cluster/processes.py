"""Finding and ending processes that Plinth started, and no others.

Everything started for one folder carries `PLINTH_INSTANCE=<id>` in its environment, which children inherit: what
is left of an instance after any crash can be found by it, whatever its parents did.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

INSTANCE_VARIABLE = "PLINTH_INSTANCE"
_CHILDREN: list[subprocess.Popen[bytes]] = []
"""What this process started: kept to be reaped, so that the ended ones are no zombies for ever."""


def instance_environment(instance: str) -> dict[str, str]:
    """The current environment with the instance's mark."""
    return {**os.environ, INSTANCE_VARIABLE: instance}


def spawn(command: Sequence[str], *, environment: Mapping[str, str], log_file: Path) -> int:
    """Start a process in a session of its own, its output appended to the log; returns its id.

    A plain process and none of asyncio's: it outlives the event loop, and nobody awaits its pipes or its end.
    """
    _CHILDREN[:] = [child for child in _CHILDREN if child.poll() is None]
    with log_file.open("ab") as log:
        child = subprocess.Popen(  # noqa: S603 - commands are made by Plinth, no shell
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    _CHILDREN.append(child)
    return child.pid


def find_instance_processes(instance: str) -> list[int]:
    """Ids of all living processes that carry the instance's mark, this one left out."""
    mark = f"{INSTANCE_VARIABLE}={instance}".encode()
    return [
        pid
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and (pid := int(entry.name)) != os.getpid() and mark in _environment(entry)
    ]


def process_started_at(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; with the id it names one process for ever. None: gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


async def end_processes(pids: list[int], *, patience_seconds: float) -> None:
    """SIGTERM, then SIGKILL to what has not ended in time."""
    _signal(pids, signal.SIGTERM)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_seconds
    while loop.time() < deadline and any(process_started_at(pid) is not None for pid in pids):
        await asyncio.sleep(0.05)
    _signal([pid for pid in pids if process_started_at(pid) is not None], signal.SIGKILL)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _environment(entry: Path) -> list[bytes]:
    try:
        return (entry / "environ").read_bytes().split(b"\0")
    except OSError:
        return []
