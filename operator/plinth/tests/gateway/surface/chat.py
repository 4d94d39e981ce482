"""Chat completions as engines write them, and the client's side of each dialect's stream."""

from __future__ import annotations

import json
from typing import Any

Event = tuple[str, dict[str, Any]]


def chunk(*, finish: str | None = None, stop: str | None = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "stop_reason": stop}
    return sse({"id": "c", "object": "chat.completion.chunk", "model": "tiny", "choices": [choice]})


def call(
    index: int, *, name: str | None = None, arguments: str = "", call_id: str | None = None
) -> list[Any]:
    return [
        {
            "index": index,
            "id": call_id,
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
    ]


def usage(prompt: int = 7, completion: int = 3, cached: int = 0) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def sse(document: Any) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def last_chunks(**counts: int) -> bytes:
    return sse({"model": "tiny", "choices": [], "usage": usage(**counts)}) + b"data: [DONE]\n\n"


def completion(*, finish: str = "stop", stop: str | None = None, **message: Any) -> bytes:
    choice = {
        "index": 0,
        "message": {"role": "assistant"} | message,
        "finish_reason": finish,
        "stop_reason": stop,
    }
    return json.dumps({"id": "c", "model": "tiny", "choices": [choice], "usage": usage(cached=2)}).encode()


def events(data: bytes) -> list[Event]:
    found = []
    for block in data.split(b"\n\n")[:-1]:
        name, body = block.split(b"\n")
        document = json.loads(body.removeprefix(b"data: "))
        assert name == b"event: " + document["type"].encode()
        found.append((document["type"], document))
    return found


THOUGHT_WORDS_AND_CALLS = [
    chunk(role="assistant", content=""),
    chunk(reasoning="I should "),
    chunk(reasoning_content="look."),
    chunk(content="Let me "),
    chunk(content="see. \u2603"),
    chunk(tool_calls=call(0, name="weather", call_id="call_1")),
    chunk(tool_calls=call(0, arguments='{"city":')),
    chunk(tool_calls=call(0, arguments='"Oslo"}')),
    chunk(content=" And "),
    chunk(tool_calls=call(1, name="time", arguments="{}")),
    chunk(finish="tool_calls"),
    last_chunks(prompt=20, completion=9, cached=5),
]
"""Everything that a stream can hold, with text amid the calls."""
