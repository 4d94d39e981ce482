"""A closed loop of streamed completions: so many users, each asking again as soon as its answer has ended.

The load that the benchmarks put on a stack, whichever it is: anything that answers `/v1/completions`. Prompts are
random token ids of exact length, answers have a fixed length (`ignore_eos`), so two stacks do the same work. It must
cost far less than what it measures: asyncio protocols over uvloop, a C parser for HTTP, no JSON decoded before a
stream's end, and the users spread over a few processes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import math
import multiprocessing
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop

_LOWEST_ID = 300
"""Ids below it are control tokens and single bytes in most tokenizers."""
_KEPT_EVENTS = 4
"""A stream's last events: the one with the finish reason, the usage, `[DONE]`, and one to spare."""
_SHOWN_ERRORS = 5
_CONNECT_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked of a stack."""

    url: str
    """`http://host:port`, without a path."""
    model: str
    users: int
    requests: int
    input_tokens: int = 512
    output_tokens: int = 256
    vocabulary: int = 49152
    seed: int = 0
    """Decides the prompts. Two runs with one seed on one engine would find their prompts in its prefix cache."""
    processes: int = 1
    timeout_seconds: float = 300.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One request; times are seconds of the machine's monotonic clock."""

    started: float
    first: float
    """When the first event arrived; equal to `last` where none did."""
    last: float
    """When the last event with a token arrived."""
    tokens: int
    failed: str = ""
    """Why there was no answer; empty where there was one."""
    truncated: str = ""
    """What the answer lacked at its end; empty where it was whole."""


class Exchange(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._transport: asyncio.Transport | None = None
        self._ended: asyncio.Future[str] | None = None
        self._gone = asyncio.Event()
        self._renew()

    def _renew(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._status = 0
        self._rest = b""
        self._now = self._first = 0.0
        self._events: deque[tuple[float, bytes]] = deque(maxlen=_KEPT_EVENTS)

    @property
    def is_open(self) -> bool:
        """Whether another request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, body: bytes) -> Outcome:
        """Send a request and wait for its whole answer."""
        if self._transport is None:
            raise RuntimeError("ask() before the connection was made")
        self._renew()
        self._ended = asyncio.get_running_loop().create_future()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        started = time.monotonic()
        self._transport.write(head.encode() + body)
        try:
            broken = await self._ended
        finally:
            self._ended = None
        return self._judge(started, broken)

    def _judge(self, started: float, broken: str) -> Outcome:
        ended = time.monotonic()
        if self._status != 200:
            shown = broken or f"HTTP {self._status}: {self._rest[:300].decode(errors='replace')}"
            return Outcome(started=started, first=ended, last=ended, tokens=0, failed=shown)
        if not self._first:
            return Outcome(
                started=started,
                first=ended,
                last=ended,
                tokens=0,
                failed=broken or "an answer without events",
            )
        return _read_ending(started, self._first, self._events, broken)

    async def close(self) -> None:
        """Hang up, and return once the connection is gone."""
        self._hang_up()
        await self._gone.wait()

    def _hang_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one, without inheriting from it

    def data_received(self, data: bytes) -> None:
        self._now = time.monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"not HTTP: {error}")
            self._hang_up()

    def connection_lost(self, error: Exception | None) -> None:
        self._gone.set()
        self._end(f"connection lost: {error or 'closed by the server'}")

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """Take note of each event; its payload is decoded only if it turns out to be among the last."""
        if self._status != 200:
            self._rest += body
            return
        *lines, self._rest = (self._rest + body).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                if not self._first:
                    self._first = self._now
                self._events.append((self._now, line))

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self._hang_up()
        self._end("")

    def _end(self, broken: str) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(broken)


def _read_ending(
    started: float,
    first: float,
    events: Sequence[tuple[float, bytes]] | deque[tuple[float, bytes]],
    broken: str,
) -> Outcome:
    """Judge a stream by its last events: finish reason, usage, `[DONE]`."""
    last, tokens, finish, error, done = first, 0, "", "", False
    for at, line in events:
        payload = line[len(b"data: ") :].strip()
        if payload == b"[DONE]":
            done = True
            continue
        with contextlib.suppress(ValueError):
            event = json.loads(payload)
            tokens = (event.get("usage") or {}).get("completion_tokens") or tokens
            error = str(event.get("error") or "") or error
            for choice in event.get("choices") or ():
                last, finish = at, choice.get("finish_reason") or finish
    lacks = [
        name for name, there in (("finish reason", finish), ("usage", tokens), ("[DONE]", done)) if not there
    ]
    truncated = f"ended without {', '.join(lacks)}" if lacks else ""
    return Outcome(
        started=started, first=first, last=last, tokens=tokens, failed=error, truncated=broken or truncated
    )


def make_bodies(load: Load) -> list[bytes]:
    """The requests' bodies: the same ones for the same load, whatever the stack."""
    source = random.Random(load.seed)  # noqa: S311 - repeatable prompts, no secrets
    lowest = min(_LOWEST_ID, load.vocabulary // 2)
    return [
        json.dumps(
            {
                "model": load.model,
                "prompt": source.choices(range(lowest, load.vocabulary), k=load.input_tokens),
                "max_tokens": load.output_tokens,
                "ignore_eos": True,
                "temperature": 0.0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ).encode()
        for _ in range(load.requests)
    ]


async def run_users(load: Load, bodies: Sequence[bytes]) -> list[Outcome]:
    """Ask for all bodies, in order, `load.users` at a time."""
    waiting = iter(bodies)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_run_user(load, waiting)) for _ in range(load.users)]
    return [outcome for task in tasks for outcome in task.result()]


async def _run_user(load: Load, waiting: Iterator[bytes]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    exchange: Exchange | None = None
    for body in waiting:
        started = time.monotonic()
        try:
            async with asyncio.timeout(load.timeout_seconds):
                if exchange is None or not exchange.is_open:
                    exchange = await _connect(load.url)
                outcomes.append(_check(await exchange.ask(body), load))
        except (OSError, TimeoutError) as error:
            now = time.monotonic()
            failed = f"{type(error).__name__}: {error}".rstrip(": ")
            outcomes.append(Outcome(started=started, first=now, last=now, tokens=0, failed=failed))
            if exchange is not None:
                await exchange.close()
                exchange = None
    if exchange is not None:
        await exchange.close()
    return outcomes


def _check(outcome: Outcome, load: Load) -> Outcome:
    """Name an answer of another length truncated: its work was not the work asked for."""
    if outcome.failed or outcome.truncated or outcome.tokens == load.output_tokens:
        return outcome
    return replace(outcome, truncated=f"{outcome.tokens} tokens of {load.output_tokens}")


async def _connect(url: str) -> Exchange:
    parts = urlsplit(url)
    if parts.hostname is None or parts.port is None:
        raise ValueError(f"{url!r} must be http://host:port")
    host, port = parts.hostname, parts.port
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_CONNECT_SECONDS):
        _, exchange = await loop.create_connection(lambda: Exchange(f"{host}:{port}"), host, port)
    return exchange


def run_load(load: Load) -> tuple[list[Outcome], float]:
    """Run a load in as many processes as it names; all its outcomes, and the CPU seconds that the client took."""
    bodies = make_bodies(load)
    count = max(1, min(load.processes, load.users))
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(count)
    started = []
    for index in range(count):
        receiving, sending = context.Pipe(duplex=False)
        part = replace(load, users=len(range(index, load.users, count)))
        process = context.Process(target=_run_part, args=(part, bodies[index::count], barrier, sending))
        process.start()
        sending.close()
        started.append((process, receiving))
    outcomes: list[Outcome] = []
    cpu_seconds = 0.0
    for process, receiving in started:
        part_outcomes, part_cpu = receiving.recv()
        outcomes += part_outcomes
        cpu_seconds += part_cpu
        process.join()
    return outcomes, cpu_seconds


def _run_part(load: Load, bodies: Sequence[bytes], barrier: Barrier, answer: Pipe) -> None:
    gc.freeze()
    gc.disable()
    barrier.wait()
    before = time.process_time()
    outcomes = uvloop.run(run_users(load, bodies))
    answer.send((outcomes, time.process_time() - before))


def summarise(load: Load, outcomes: Sequence[Outcome], cpu_seconds: float) -> dict[str, object]:
    """The figures of a run. Times of failed and truncated requests count as errors only, not in the percentiles.

    TTFT is from sending the request to its first event; TPOT is (last token - first token) / (tokens - 1).
    """
    whole = [each for each in outcomes if not each.failed and not each.truncated]
    seconds = (
        max(each.last for each in outcomes) - min(each.started for each in outcomes) if outcomes else 0.0
    )
    tokens = sum(each.tokens for each in whole)
    ttft = [1000 * (each.first - each.started) for each in whole]
    tpot = [1000 * (each.last - each.first) / (each.tokens - 1) for each in whole if each.tokens > 1]
    errors = list(dict.fromkeys(each.failed or each.truncated for each in outcomes if each not in whole))
    return {
        **{
            key: value
            for key, value in asdict(load).items()
            if key not in {"url", "model", "timeout_seconds"}
        },
        "completed": len(whole),
        "failed": sum(bool(each.failed) for each in outcomes),
        "truncated": sum(bool(each.truncated) and not each.failed for each in outcomes),
        "errors": errors[:_SHOWN_ERRORS],
        "seconds": round(seconds, 4),
        "output_tokens_per_second": round(tokens / seconds, 3) if seconds else 0.0,
        "ttft_ms": _spread(ttft),
        "tpot_ms": _spread(tpot),
        "client_cpu_seconds": round(cpu_seconds, 3),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {
        "mean": round(sum(values) / len(values), 3),
        "p50": round(percentile(values, 50), 3),
        "p99": round(percentile(values, 99), 3),
    }


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: a value that was measured, the largest one of fewer than 100 for p99.

    >>> percentile([4.0, 1.0, 3.0, 2.0], 50), percentile([4.0, 1.0, 3.0, 2.0], 99)
    (2.0, 4.0)
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def main() -> None:
    """Run one load and print its figures as one line of JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    for name in ("users", "requests"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name, default in (
        ("input-tokens", 512),
        ("output-tokens", 256),
        ("vocabulary", 49152),
        ("seed", 0),
        ("processes", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--timeout-seconds", type=float, default=300.0)
    parser.add_argument("--outcomes", type=Path, help="file for every request's own times, as JSON")
    options = vars(parser.parse_args())
    kept: Path | None = options.pop("outcomes")
    load = Load(**options)
    outcomes, cpu_seconds = run_load(load)
    if kept is not None:
        kept.write_text(json.dumps([asdict(outcome) for outcome in outcomes]))
    print(json.dumps(summarise(load, outcomes, cpu_seconds)))


if __name__ == "__main__":
    main()
