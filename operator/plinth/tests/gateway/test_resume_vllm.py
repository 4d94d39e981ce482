"""Streams of a real vLLM, cut and carried on; the contract of the engine that names its tokens."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from plinth.gateway.resume.asked import prepare
from plinth.gateway.resume.continuation import Joined, resume
from plinth.gateway.resume.events import EventEditor
from plinth.gateway.resume.splice import Splice
from plinth.tests.engine.serving import SECRET
from plinth.tests.engine.test_vllm import START_SECONDS, replica
from plinth.tests.gateway.token_engine import Seen, read_stream

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with replica(tmp_path_factory.mktemp("resume"), {}) as (_, base):
        deadline = time.monotonic() + START_SECONDS
        while json.loads(fetch(base, "/plinth/state", b""))["phase"] != "Ready":
            assert time.monotonic() < deadline
            time.sleep(0.5)
        yield base


def fetch(base: str, path: str, body: bytes) -> bytes:
    headers = {"content-type": "application/json", "authorization": f"Bearer {SECRET}"}
    request = urllib.request.Request(base + path, body or None, headers)  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - as above
        return bytes(answer.read())


def events_of(stream: bytes) -> list[bytes]:
    return [event + b"\n\n" for event in stream.split(b"\n\n") if event]


def carry_on(base: str, path: str, request: bytes, breaks: list[int]) -> Seen:
    """What a client reads of a stream that is cut after so many events, each time anew."""
    prepared = prepare(request, seed=11)
    assert prepared is not None
    splice: Splice = EventEditor(hides_ids=prepared.hides_ids, hides_usage=prepared.hides_usage)
    out, stream = [], events_of(fetch(base, path, prepared.body))
    for after in breaks:
        out.append(splice.feed(b"".join(stream[:after])))
        try:
            next(resume(prepared, splice.ledger, path))
            raise AssertionError("with a limit there is nothing to ask first")
        except StopIteration as end:
            outcome = end.value
        assert isinstance(outcome, Joined), outcome
        splice, stream = outcome.splice, events_of(fetch(base, outcome.ask.path, outcome.ask.body))
    out.append(splice.feed(b"".join(stream)))
    assert splice.failure is None
    return read_stream(b"".join(out))


def request_of(path: str, words: str, **fields: Any) -> bytes:
    asked = {"messages": [{"role": "user", "content": words}]} if path == CHAT else {"prompt": words}
    shape = {"model": "chat", "stream": True, "temperature": 0, "max_tokens": 24, **asked, **fields}
    return json.dumps(shape).encode()


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "chat": (CHAT, "Tell a story about a lighthouse.", {}),
    "completions": (COMPLETIONS, "Once upon a time", {"stream_options": {"include_usage": True}}),
    "characters of several tokens": (CHAT, "Write many different emoji in a row", {}),
    "a stop string": (COMPLETIONS, "Count: 1 2 3 4", {"stop": ["9 10 11", "7 x"]}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_cut_stream_reads_as_an_undisturbed_one(vllm: str, case: str) -> None:
    path, words, fields = CASES[case]
    request = request_of(path, words, **fields)
    whole = read_stream(fetch(vllm, path, request))
    for breaks in ([2], [7], [13], [4, 3, 5]):
        seen = carry_on(vllm, path, request, breaks)
        assert (seen.texts, seen.finish, seen.done) == (whole.texts, whole.finish, True), breaks
        assert seen.usage == whole.usage
        assert len(seen.ids) == 1


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_the_client_gets_the_very_events_that_it_would_get_unasked(vllm: str, path: str) -> None:
    request = request_of(path, "Say hello", max_tokens=6)
    prepared = prepare(request, seed=1)
    assert prepared is not None
    edits = EventEditor(hides_ids=True, hides_usage=True)
    edited = events_of(edits.feed(fetch(vllm, path, prepared.body)))
    unasked = events_of(fetch(vllm, path, request))
    assert [untimed(event) for event in edited] == [untimed(event) for event in unasked]
    assert edits.ledger.names_tokens()


def untimed(event: bytes) -> Any:
    """An event without what differs from one request to the next."""
    if b"[DONE]" in event:
        return "done"
    return {**json.loads(event[5:]), "id": "", "created": 0}
