"""Streams through a gateway whose replicas fail: one of three is killed, another one stops without a word.

    python e2e/benchmarks/gateway_resume.py [--engine tokens|llama] [--streams 200]

The engines are processes: one of a few lines whose next token depends on all before it, or llama.cpp with a small
model. What each client reads is held against the same request to a replica that nothing happens to; where the engine
does not give the same answer twice, that says nothing, and the stream counts for being whole alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from gateway_engines import engines
from gateway_measures import Cores
from gateway_plinth import TENANT, Key, access, make_key, plinth, route
from gateway_processes import free_port
from records import Record, installed_versions, this_command, write_records

from plinth.domain.access import PolicyRecord
from plinth.domain.traffic import RouteTable
from plinth.tests.gateway.harness import Connection
from plinth.tests.gateway.token_engine import Seen as Read
from plinth.tests.gateway.token_engine import read_stream

REPLICAS = 3
PATH = "/v1/chat/completions"
REFERENCES_AT_ONCE = 60


@dataclass(frozen=True, kw_only=True)
class Scene:
    """How long an undisturbed stream takes, and when what happens."""

    arguments: tuple[str, ...]
    engine: str
    concurrency: int
    """Streams that a replica was sized for."""
    tokens: int
    killed_after: float
    stopped_after: float
    limit_seconds: float


SCENES = {
    "tokens": Scene(
        arguments=("tokens", "0.03", "120"),
        engine="VLLM",
        concurrency=512,
        tokens=200,
        killed_after=1.0,
        stopped_after=2.0,
        limit_seconds=90,
    ),
    "llama": Scene(
        arguments=("llama",),
        engine="LlamaCpp",
        concurrency=8,
        tokens=48,
        killed_after=4.0,
        stopped_after=8.0,
        limit_seconds=400,
    ),
}


async def measure(kind: str, streams: int, folder: Path) -> list[Record]:
    scene, cores, port = SCENES[kind], Cores.of_this_machine(), free_port()
    key = make_key("reader", f"{TENANT}/free")
    async with engines(REPLICAS, *scene.arguments) as replicas:
        ports = [at for _, at in replicas]
        bodies = [make_body(number, scene.tokens) for number in range(streams)]
        undisturbed = await references(ports, bodies)
        again = await references(ports[::-1], bodies)
        table = RouteTable(
            version=1, models=(route(f"{TENANT}/m", ports, scene.concurrency, engine=scene.engine),)
        )
        admitted = access([key], PolicyRecord(name=f"{TENANT}/free"))
        async with plinth(core=cores.proxy, port=port, folder=folder, table=table, admitted=admitted):
            asked = asyncio.gather(*(ask(port, body, key, seconds=scene.limit_seconds) for body in bodies))
            await fail([child.process.pid for child, _ in replicas], scene)
            read = await asked
            resumed = await resumed_streams(port, key)
    found = Counter(
        judge(one, other, repeats=texts(other) == texts(third))
        for one, other, third in zip(read, undisturbed, again, strict=True)
    )
    errors = Counter(error for error in map(error_of, read) if error)
    return make_records(
        kind, found, {"streams": streams, "went_on_elsewhere": resumed, "errors": dict(errors)}
    )


def make_body(number: int, tokens: int) -> dict[str, Any]:
    """Each asks something else, at temperature 0."""
    question = f"Count from {number} on, and tell what you think of each number."
    messages = [{"role": "user", "content": question}]
    return {"model": "m", "stream": True, "temperature": 0, "max_tokens": tokens, "messages": messages}


async def references(ports: Sequence[int], bodies: Sequence[dict[str, Any]]) -> list[bytes]:
    """The streams as the replicas give them, a few at a time."""
    room = asyncio.Semaphore(REFERENCES_AT_ONCE)

    async def one(number: int) -> bytes:
        async with room:
            return await ask(ports[number % len(ports)], bodies[number])

    return await asyncio.gather(*(one(number) for number in range(len(bodies))))


async def ask(port: int, body: dict[str, Any], key: Key | None = None, *, seconds: float = 300) -> bytes:
    """All that came of a stream; what ended early ends early here. Nothing of one that never ended."""
    connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
    try:
        headers = {"Authorization": f"Bearer {key.secret}"} if key else {}
        async with asyncio.timeout(seconds):
            return (await connection.ask(PATH, body, headers=headers)).body
    except TimeoutError:
        return b""
    finally:
        connection.close()


async def resumed_streams(port: int, key: Key) -> int:
    """How many went on at another replica, as the gateway counts them: a run in which none did shows nothing."""
    connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
    try:
        headers = {"Authorization": f"Bearer {key.secret}"}
        answer = await connection.ask("/metrics", method="GET", headers=headers)
    finally:
        connection.close()
    assert answer.status == 200, answer
    text = answer.body.decode()
    lines = [line for line in text.splitlines() if line.startswith("plinth_gateway_resumed_streams_total")]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


async def fail(pids: Sequence[int], scene: Scene) -> None:
    """The first is killed, the second hangs."""
    await asyncio.sleep(scene.killed_after)
    os.kill(pids[0], signal.SIGKILL)
    await asyncio.sleep(scene.stopped_after - scene.killed_after)
    os.kill(pids[1], signal.SIGSTOP)


def texts(stream: bytes) -> tuple[dict[str, str], str | None]:
    read = read_stream(stream)
    return read.texts, read.finish


def judge(stream: bytes, undisturbed: bytes, *, repeats: bool) -> str:
    """What became of a stream: `whole`, or how it is not."""
    if not stream:
        return "hung"
    try:
        read = read_stream(stream)
    except (AssertionError, KeyError, json.JSONDecodeError):
        return "broken"
    if not read.done or read.finish is None:
        return "broken"
    if not repeats:
        return "whole, of an engine that does not repeat itself"
    return _compare(read, read_stream(undisturbed))


def _compare(read: Read, other: Read) -> str:
    mine, theirs = "".join(read.texts.values()), "".join(other.texts.values())
    if (read.texts, read.finish) == (other.texts, other.finish):
        return "whole"
    return "lost" if len(mine) < len(theirs) else "doubled" if len(mine) > len(theirs) else "other"


def error_of(stream: bytes) -> str:
    """What a stream says that ended with an error, or that was refused."""
    found = re.search(rb'"message":\s*("(?:[^"\\]|\\.)*")', stream) if b'"error"' in stream else None
    return str(json.loads(found[1])) if found else ""


def make_records(kind: str, found: Counter[str], seen: dict[str, object]) -> list[Record]:
    """Broken, and of those that are not: lost or doubled tokens, and other texts."""
    suffix = "" if kind == "tokens" else f"_{kind}"
    values = {
        "resume_broken_streams": found["broken"] + found["hung"],
        "resume_lost_or_doubled_streams": found["lost"] + found["doubled"],
        "resume_differing_streams": found["other"],
    }
    peers = {"engine": kind, **seen, "became": dict(found)}
    return [
        Record(
            metric=metric + suffix,
            value=float(value),
            unit="streams",
            goal="==0",
            peers=peers,
            versions=installed_versions("uvloop", "httptools", "msgspec", "xllamacpp"),
            command=this_command(),
        )
        for metric, value in values.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=[*SCENES, "both"], default="both")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--llama-streams", type=int, default=30)
    arguments = parser.parse_args()
    made = []
    for kind in SCENES if arguments.engine == "both" else (arguments.engine,):
        streams = arguments.llama_streams if kind == "llama" else arguments.streams
        with tempfile.TemporaryDirectory() as folder:
            made += uvloop.run(measure(kind, streams, Path(folder)))
    write_records("gateway_resume", made)


if __name__ == "__main__":
    main()
