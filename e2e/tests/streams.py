"""Streams that outlast what happens to the fleet, each checked to its last event."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field

import aiohttp


@dataclass
class StreamResult:
    """What one stream came to."""

    seconds: float = 0.0
    events: int = 0
    finish_reason: str | None = None
    usage: dict[str, int] = field(default_factory=dict)
    done: bool = False
    error: str = ""

    @property
    def complaint(self) -> str:
        """What is wrong with it; empty when it ended whole."""
        if self.error:
            return self.error
        if self.finish_reason is None or not self.done:
            return f"truncated after {self.events} tokens"
        if self.usage.get("completion_tokens") != self.events:
            return f"{self.usage} but {self.events} tokens received"
        return ""


async def stream_once(session: aiohttp.ClientSession, url: str, model: str, *, tokens: int) -> StreamResult:
    """One completion of exactly `tokens` tokens, streamed; every event with text counts as a token."""
    body = {
        "model": model,
        "prompt": "Count on and on: one, two, three,",
        "max_tokens": tokens,
        "ignore_eos": True,
        # Greedy decoding of this prompt stays within ASCII. llama.cpp sends half of a character together with the
        # other half, as one event for two tokens: then events could not be held against usage.
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    result, started = StreamResult(), time.monotonic()
    try:
        async with session.post(f"{url}/completions", json=body) as response:
            if response.status != 200:
                result.error = f"{response.status}: {(await response.text())[:200]}"
                return result
            async for line in response.content:
                _take(line, result)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        result.error = repr(error)
    result.seconds = time.monotonic() - started
    return result


def _take(line: bytes, result: StreamResult) -> None:
    if line.startswith(b"data: [DONE]"):
        result.done = True
    elif line.startswith(b"data: "):
        event = json.loads(line[6:])
        if "error" in event:
            result.error = str(event["error"])
        for choice in event.get("choices", ()):
            # A token may carry no text of its own (half of a character), so events count and not texts.
            result.events += choice.get("finish_reason") is None
            result.finish_reason = choice.get("finish_reason") or result.finish_reason
        result.usage = event.get("usage") or result.usage


async def many_streams(url: str, model: str, *, count: int, tokens: int) -> list[StreamResult]:
    """So many at once, until all have ended."""
    timeout = aiohttp.ClientTimeout(total=600)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        return await asyncio.gather(*(stream_once(session, url, model, tokens=tokens) for _ in range(count)))
