"""Measures whatever answers OpenAI's completions: a closed loop of users at each of a few concurrencies.

Prompts are random token ids and answers run to a fixed length, so that neither a prefix cache nor a short answer helps.
The first quarter of each level is not counted: there all users begin at once. What a user waits for when a level's time
is up is cut off, so a run takes as long as it was given and no longer.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from plinth.runtime.chat import key_headers

_IDS = range(1000, 10_000)
"""Beyond control tokens and single bytes, and within every vocabulary."""
_UNCOUNTED_SHARE = 0.25
_CONNECT_SECONDS = 5.0
_AFTER_FAILURE_SECONDS = 0.2
_OK = 200
_SHOWN = 300


class ProfileError(Exception):
    """Nothing was measured; the text is the gateway's or the engine's own."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What each request asks."""

    model: str
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, kw_only=True)
class Level:
    """What was measured at one concurrency. Times are those of requests begun in the counted time, where any were."""

    users: int
    requests: int
    """Answered to the end."""
    failed: int
    ttft_p50_milliseconds: int
    ttft_p99_milliseconds: int
    tpot_microseconds: int
    """Median of the requests' own means."""
    tokens_per_second: int
    """Output tokens of all users together."""


@dataclass
class _Ask:
    """One request under way; times are those of the event loop."""

    began: float
    first: float | None = None
    last: float = 0.0
    tokens: int = 0
    complete: bool = False


@dataclass
class _Run:
    """One level under way."""

    counted_from: float
    asks: list[_Ask] = field(default_factory=list)
    tokens: int = 0
    """Those that came in the counted time."""
    failures: list[str] = field(default_factory=list)


async def measure(endpoint: str, workload: Workload, users: Sequence[int], seconds: float) -> list[Level]:
    """One level after the other, which share the time. `endpoint` is the URL up to `/v1`.

    Raises:
        ProfileError: at some level no request brought a single token.
    """
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector, headers=key_headers()) as session:
        url = f"{endpoint}/completions"
        return [await _measure_level(session, url, workload, each, seconds / len(users)) for each in users]


async def _measure_level(
    session: aiohttp.ClientSession, url: str, workload: Workload, users: int, seconds: float
) -> Level:
    uncounted = seconds * _UNCOUNTED_SHARE
    run = _Run(counted_from=asyncio.get_running_loop().time() + uncounted)
    tasks = [asyncio.create_task(_be_user(session, url, workload, run)) for _ in range(users)]
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
    return _summarise(run, users, seconds - uncounted)


async def _be_user(session: aiohttp.ClientSession, url: str, workload: Workload, run: _Run) -> None:
    """Ask again as soon as the answer has ended, until cancelled."""
    while True:
        ask = _Ask(began=asyncio.get_running_loop().time())
        try:
            async with session.post(url, json=_body(workload)) as response:
                if response.status == _OK:
                    run.asks.append(ask)
                    await _read(response, ask, run)
                    continue
                run.failures.append(_message_of(await response.text()))
        except aiohttp.ClientError as error:
            run.failures.append(str(error) or type(error).__name__)
        await asyncio.sleep(_AFTER_FAILURE_SECONDS)


def _body(workload: Workload) -> dict[str, Any]:
    return {
        "model": workload.model,
        "prompt": random.choices(_IDS, k=workload.input_tokens),  # noqa: S311 - no secret
        "max_tokens": workload.output_tokens,
        "ignore_eos": True,
        "stream": True,
        # vLLM puts several tokens into one event when it is busy; this has it say how many there are by then.
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


async def _read(response: aiohttp.ClientResponse, ask: _Ask, run: _Run) -> None:
    """Follow one stream; an event that does not say how many tokens there are by now counts as one more."""
    clock = asyncio.get_running_loop().time
    async for line in response.content:
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        event = json.loads(line[len(b"data: ") :])
        if "error" in event:
            run.failures.append(_message_of(json.dumps(event)))
            return
        told = (event.get("usage") or {}).get("completion_tokens")
        total = told if told is not None else ask.tokens + 1
        if total <= ask.tokens:
            continue
        ask.last = clock()
        ask.first = ask.first or ask.last
        if ask.last >= run.counted_from:
            run.tokens += total - ask.tokens
        ask.tokens = total
    ask.complete = True


def _summarise(run: _Run, users: int, counted_seconds: float) -> Level:
    answered = [each for each in run.asks if each.first is not None]
    if not answered:
        why = (
            run.failures[-1] if run.failures else "no first token came in the time given: give more --seconds"
        )
        raise ProfileError(f"nothing was measured with {users} at once: {why}")
    counted = [each for each in answered if each.began >= run.counted_from] or answered
    ttfts = sorted(_ttfts(counted))
    tpots = sorted(_tpots(answered))
    return Level(
        users=users,
        requests=sum(each.complete for each in run.asks),
        failed=len(run.failures),
        ttft_p50_milliseconds=round(percentile(ttfts, 50) * 1000),
        ttft_p99_milliseconds=round(percentile(ttfts, 99) * 1000),
        tpot_microseconds=round(percentile(tpots, 50) * 1_000_000) if tpots else 0,
        tokens_per_second=round(run.tokens / counted_seconds),
    )


def _ttfts(asks: Sequence[_Ask]) -> Iterator[float]:
    return (each.first - each.began for each in asks if each.first is not None)


def _tpots(asks: Sequence[_Ask]) -> Iterator[float]:
    """The mean time between tokens after the first, of each request that had more than one."""
    for each in asks:
        if each.first is not None and each.last > each.first and each.tokens > 1:
            yield (each.last - each.first) / (each.tokens - 1)


def percentile(ascending: Sequence[float], percent: int) -> float:
    """The smallest value that so many percent are not above (nearest rank)."""
    rank = -(-len(ascending) * percent // 100)
    return ascending[max(rank, 1) - 1]


def _message_of(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:_SHOWN]
