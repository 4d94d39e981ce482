"""The two ends of the benchmark's wire, in C so that neither is what is measured: replicas and a client.

`gateway_wire/` holds their source; they are compiled once, into the user's cache.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent / "gateway_wire"
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")
PATH = "/v1/chat/completions"
_END_SECONDS = 30.0
"""Within which the client must have ended once its time is over."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """Microseconds."""

    p50: int
    p90: int
    p99: int
    most: int


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What the client saw."""

    seconds: float
    answered: int
    failed: int
    events: int
    whole: Times
    first: Times
    """From the request until the head of its answer."""


def program(name: str) -> Path:
    """The compiled program; made now if its source is new."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit(
            "the benchmark's ends are in C: it needs cc (on Debian: apt-get install gcc libc6-dev)"
        )
    digest = hashlib.sha256("".join(FLAGS).encode())
    for file in sorted(SOURCE.iterdir()):
        digest.update(file.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plinth" / "e2e"
    target = cache / f"wire-{digest.hexdigest()[:12]}" / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, *FLAGS, "-o", draft, SOURCE / f"{name}.c"], check=True)
        draft.replace(target)
    return target


@asynccontextmanager
async def backend(
    *, core: int, replicas: int, event_milliseconds: int, events: int, awake: bool = False
) -> AsyncIterator[Sequence[int]]:
    """Replicas that answer at once; the ports they listen on. Awake, they spin where they would sleep."""
    process = await asyncio.create_subprocess_exec(
        *("taskset", "--cpu-list", str(core), str(program("backend"))),
        *map(str, (replicas, event_milliseconds, events, int(awake))),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield [int(port) for port in (await process.stdout.readline()).split()]
    finally:
        process.stdin.close()
        await process.wait()


async def load(
    port: int,
    requests: Sequence[bytes],
    *,
    core: int,
    connections: int,
    seconds: float,
    rate: float = 0.0,
    spread_milliseconds: int = 0,
    grace_seconds: float = 5.0,
    awake: bool = False,
) -> Answered:
    """Asks for so long, then gives what is under way so long to end. A rate of 0 is as fast as answers come.

    Awake, the client spins where it would sleep.
    """
    (size,) = {len(request) for request in requests}
    numbers = (
        port,
        connections,
        seconds,
        grace_seconds,
        f"{rate:.3f}",
        spread_milliseconds,
        size,
        int(awake),
    )
    process = await asyncio.create_subprocess_exec(
        *("taskset", "--cpu-list", str(core), str(program("load"))),
        *map(str, numbers),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, error = await asyncio.wait_for(
            process.communicate(b"".join(requests)), seconds + grace_seconds + _END_SECONDS
        )
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"port {port} answered with an error: {error.decode(errors='replace')[:1000]}")
    found = json.loads(out)
    whole, first = (Times(**found.pop(name)) for name in ("whole", "first"))
    return Answered(**found, whole=whole, first=first)


def make_requests(keys: Sequence[str], *, model: str, count: int, stream: bool) -> list[bytes]:
    """Requests of one size with prompts of 1 KB, each another one, by one key after the other."""
    made = []
    for number in range(count):
        fields: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": f"{number:04} " + "word " * 199 + "end"}],
        }
        if stream:
            fields["stream"] = True
        body = json.dumps(fields, separators=(",", ":")).encode()
        lines = (
            f"POST {PATH} HTTP/1.1",
            "host: gateway",
            f"authorization: Bearer {keys[number % len(keys)]}",
            "accept: application/json",
            "content-type: application/json",
            "user-agent: bench",
            f"content-length: {len(body)}",
        )
        made.append("\r\n".join((*lines, "", "")).encode() + body)
    return made
