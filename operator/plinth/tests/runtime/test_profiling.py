"""The profile's load against a small server that streams tokens at a known pace; a busy machine only makes it slower."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from plinth.runtime.profiling import Level, ProfileError, Workload, measure, percentile

WORKLOAD = Workload(model="team/chat", input_tokens=20, output_tokens=10)


@dataclass
class PacedEngine:
    """A first token after `first_seconds`, the others `gap_seconds` apart, `together` in one event."""

    first_seconds: float = 0.05
    gap_seconds: float = 0.01
    together: int = 1
    refusal: str = ""
    breaks_off: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/v1/completions", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if self.refusal:
            return web.json_response({"error": {"message": self.refusal}}, status=429)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._stream(request, body["max_tokens"])
        finally:
            self.at_once -= 1

    async def _stream(self, request: web.Request, tokens: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await asyncio.sleep(self.first_seconds)
        for sent in range(self.together, tokens + 1, self.together):
            event: dict[str, Any] = {"choices": [{"text": "word"}]}
            if self.together > 1:
                event["usage"] = {"completion_tokens": sent}
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
            if self.breaks_off:
                await response.write(b'data: {"error": {"message": "the engine died"}}\n\n')
                return response
            await asyncio.sleep(self.gap_seconds * self.together)
        usage = {"choices": [], "usage": {"completion_tokens": tokens}}
        await response.write(f"data: {json.dumps(usage)}\n\ndata: [DONE]\n\n".encode())
        return response


async def profiled(engine: PacedEngine, *users: int, seconds: float = 1.0) -> list[Level]:
    async with engine.listening() as endpoint:
        return await measure(endpoint, WORKLOAD, users, seconds)


async def test_the_pace_of_one_user_is_found() -> None:
    (level,) = await profiled(PacedEngine(), 1)
    assert 50 <= level.ttft_p50_milliseconds <= level.ttft_p99_milliseconds < 500
    assert 10_000 <= level.tpot_microseconds < 100_000
    assert 10 < level.tokens_per_second < 75  # ten tokens in 0.15 s and what the client takes
    assert level.failed == 0
    assert level.requests >= 1


async def test_each_level_has_its_users_and_all_share_the_time() -> None:
    engine = PacedEngine()
    began = time.monotonic()
    one, eight = await profiled(engine, 1, 8, seconds=1.6)
    assert 1.6 <= time.monotonic() - began < 5
    assert engine.most_at_once == 8
    assert (one.users, eight.users) == (1, 8)
    assert eight.tokens_per_second > 2 * one.tokens_per_second


async def test_what_is_asked_is_a_stream_of_fixed_length_and_no_prompt_twice() -> None:
    engine = PacedEngine()
    await profiled(engine, 2)
    first, second = engine.bodies[:2]
    assert (first["model"], first["max_tokens"], first["ignore_eos"], first["stream"]) == (
        "team/chat",
        10,
        True,
        True,
    )
    assert len(first["prompt"]) == 20
    assert first["prompt"] != second["prompt"]


async def test_tokens_that_come_together_are_counted_one_by_one() -> None:
    (level,) = await profiled(PacedEngine(together=5), 1)
    assert 10 < level.tokens_per_second < 75


async def test_answers_that_outlast_the_time_are_cut_and_count_as_far_as_they_came() -> None:
    slow = PacedEngine(gap_seconds=0.2)
    began = time.monotonic()
    (level,) = await profiled(slow, 2, seconds=1.0)
    assert time.monotonic() - began < 5
    assert level.requests == 0
    assert 2 <= level.tokens_per_second <= 12  # two users, five tokens a second each


async def test_a_refusal_is_told_in_its_own_words() -> None:
    with pytest.raises(ProfileError, match="nothing was measured with 2 at once: too many requests"):
        await profiled(PacedEngine(refusal="too many requests"), 2)


async def test_an_answer_that_breaks_off_is_a_failure_and_its_tokens_count() -> None:
    (level,) = await profiled(PacedEngine(breaks_off=True), 1, seconds=0.5)
    assert level.failed > 0
    assert level.requests == 0


async def test_nobody_there_is_told_at_once() -> None:
    with pytest.raises(ProfileError, match="Cannot connect"):
        await measure("http://127.0.0.1:1/v1", WORKLOAD, [1], 0.3)


@pytest.mark.parametrize(("percent", "expected"), [(50, 2), (99, 4), (75, 3), (1, 1)])
def test_a_percentile_is_a_value_that_was_measured(percent: int, expected: float) -> None:
    assert percentile([1, 2, 3, 4], percent) == expected
