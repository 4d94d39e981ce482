"""Streams of a real llama.cpp, cut and carried on; also the contract of the engine that the other tests make up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from plinth.tests.gateway.cut_streams import CHAT, COMPLETIONS, RealEngine, request_of
from plinth.tests.gateway.harness import SECRET
from plinth.tests.gateway.real_llamacpp import serve_llamacpp
from plinth.tests.gateway.token_engine import read_stream

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def engine() -> Iterator[RealEngine]:
    server = serve_llamacpp(slots=2, context=4096, api_keys=[SECRET])
    yield RealEngine(server.listening_address, SECRET)
    del server  # it ends with its last name


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "chat": (CHAT, "Tell a story about a lighthouse.", {}),
    "completions": (COMPLETIONS, "Once upon a time", {"stream_options": {"include_usage": True}}),
    "characters of several tokens": (CHAT, "Write many different emoji in a row", {"repeat_penalty": 1.3}),
    "a stop string": (COMPLETIONS, "Count: 1 2 3 4", {"stop": ["15 16", "7 x"]}),
    "a seed and a tool": (
        CHAT,
        "What is the weather in Paris?",
        {
            "temperature": 0.8,
            "seed": 5,
            "tools": [
                {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
            ],
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_cut_stream_reads_as_an_undisturbed_one(engine: RealEngine, case: str) -> None:
    path, words, fields = CASES[case]
    request = request_of(path, words, **fields)
    whole = read_stream(engine.fetch(path, request))
    for breaks in ([2], [11], [4, 3, 6], [60]):
        seen = engine.carry_on(path, request, breaks)
        assert (seen.texts, seen.finish, seen.done) == (whole.texts, whole.finish, True), breaks
        assert len(seen.ids) == 1
        if whole.usage is not None and "stream_options" in fields:
            assert seen.usage is not None
            assert seen.usage["completion_tokens"] == whole.usage["completion_tokens"]
            assert seen.usage["prompt_tokens"] == whole.usage["prompt_tokens"]
