"""Whole streams broken at every place, and what the client makes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.gateway.protocol.errors import Refusal
from plinth.gateway.resume.asked import prepare
from plinth.gateway.resume.continuation import Joined, Outcome, resume
from plinth.gateway.resume.events import EventEditor, Splice
from plinth.gateway.resume.ledger import Ledger
from plinth.tests.gateway.token_engine import Engine, Seen, call_a_tool, read_stream, think_first

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Tell"}]
TOOLS = [{"type": "function", "function": {"name": "look"}}]


def body(path: str, **fields: Any) -> bytes:
    asked = {"messages": MESSAGES} if path == CHAT else {"prompt": "Tell"}
    return json.dumps({"model": "m", "stream": True, "temperature": 0, **asked, **fields}).encode()


def ask(engine: Engine, prepared: Any, ledger: Ledger, path: str) -> Outcome:
    questions = resume(prepared, ledger, path)
    try:
        question = next(questions)
        while True:
            question = questions.send(engine.small(question.path, question.body))
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome


def play(engines: list[Engine], path: str, request: bytes, breaks: list[int]) -> bytes | Refusal:
    """The client's bytes of a stream whose replica breaks after so many events, again and again."""
    prepared = prepare(request, seed=7)
    assert prepared is not None
    splice: Splice = EventEditor(hides_ids=prepared.hides_ids, hides_usage=prepared.hides_usage)
    out, stream = [], engines[0].stream(path, prepared.body)
    for number, after in enumerate(breaks, 1):
        out.append(splice.feed(b"".join(stream[:after])))
        assert splice.failure is None
        if after >= len(stream):
            return b"".join(out)
        outcome = ask(engines[number], prepared, splice.ledger, path)
        if isinstance(outcome, Refusal):
            return outcome
        if isinstance(outcome, bytes):
            return b"".join([*out, outcome])
        splice, stream = outcome.splice, engines[number].stream(outcome.ask.path, outcome.ask.body)
    out.append(splice.feed(b"".join(stream)))
    assert splice.failure is None
    assert splice.ledger.finished
    return b"".join(out)


def undisturbed(engine: Engine, path: str, request: bytes) -> Seen:
    return read_stream(b"".join(engine.stream(path, request)))


KINDS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "chat": ({}, CHAT, {"max_tokens": 20}),
    "chat to its end": ({}, CHAT, {}),
    "completions": ({}, COMPLETIONS, {}),
    "completions with usage": ({}, COMPLETIONS, {"stream_options": {"include_usage": True}}),
    "chat under a stop string": ({}, CHAT, {"stop": ["ly.ab", " sea ü"]}),
    "completions under a stop string": ({"ends": 60}, COMPLETIONS, {"max_tokens": 50, "stop": "the end"}),
    "thoughts": ({"parser": think_first}, CHAT, {}),
    "a tool call": ({"parser": call_a_tool}, CHAT, {"tools": TOOLS}),
    "llama.cpp's chat": ({"names_tokens": False}, CHAT, {"max_tokens": 20}),
    "llama.cpp's completions": ({"names_tokens": False}, COMPLETIONS, {"max_tokens": 20}),
    "llama.cpp under a stop string": ({"names_tokens": False, "ends": 60}, CHAT, {"stop": ["ly. sea"]}),
    "llama.cpp with a tool call": ({"names_tokens": False, "parser": call_a_tool}, CHAT, {"tools": TOOLS}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_broken_anywhere_reads_as_an_undisturbed_one(kind: str) -> None:
    shape, path, fields = KINDS[kind]
    request = body(path, **fields)
    whole = undisturbed(Engine(**shape), path, request)
    for after in range(1, 40):
        got = play([Engine(**shape), Engine(**shape)], path, request, [after])
        assert isinstance(got, bytes)
        seen = read_stream(got)
        assert (seen.texts, seen.finish, seen.done) == (whole.texts, whole.finish, True), after
        assert len(seen.ids) == 1, "one stream has one id"
        assert len(seen.calls) == len(whole.calls)
        assert seen.usage == whole.usage


@given(kind=st.sampled_from(sorted(KINDS)), breaks=st.lists(st.integers(1, 14), min_size=2, max_size=4))
def test_a_stream_that_breaks_again_and_again_reads_as_an_undisturbed_one(
    kind: str, breaks: list[int]
) -> None:
    shape, path, fields = KINDS[kind]
    request = body(path, **fields)
    whole = undisturbed(Engine(**shape), path, request)
    got = play([Engine(**shape) for _ in range(len(breaks) + 1)], path, request, breaks)
    assert isinstance(got, bytes)
    seen = read_stream(got)
    assert (seen.texts, seen.finish, seen.usage) == (whole.texts, whole.finish, whole.usage)


def test_a_continuation_asks_only_for_the_tokens_that_are_missing() -> None:
    second = Engine()
    play([Engine(), second], CHAT, body(CHAT, max_tokens=20, seed=3, stop=["zz"], user="u"), [9])
    path, fields = second.asked[-1]
    assert path == COMPLETIONS
    assert fields["seed"] == 3
    assert fields["stop"] == ["zz"]
    assert fields["user"] == "u"
    made = [token for token in fields["prompt"] if token < 1000]
    assert fields["max_tokens"] == 20 - len(made)
    assert "messages" not in fields


def test_chat_without_a_limit_goes_on_to_the_end_of_the_context() -> None:
    second = Engine(context=100)
    play([Engine(context=100), second], CHAT, body(CHAT), [9])
    assert [path for path, _ in second.asked] == ["/v1/models", COMPLETIONS]
    assert second.asked[1][1]["max_tokens"] + len(second.asked[1][1]["prompt"]) == 100


def test_a_sampled_stream_goes_on_from_its_tokens_whatever_they_were() -> None:
    got = play([Engine(), Engine(stray=5)], CHAT, body(CHAT, temperature=1.0, max_tokens=20), [9])
    assert isinstance(got, bytes)
    seen = read_stream(got)
    whole = undisturbed(Engine(), CHAT, body(CHAT, max_tokens=20))
    assert seen.texts["content"][:12] == whole.texts["content"][:12]
    assert seen.texts != whole.texts
    assert seen.usage is None


def test_an_engine_that_answers_otherwise_never_reaches_the_client() -> None:
    request = body(CHAT, tools=TOOLS)
    prepared = prepare(request, seed=7)
    assert prepared is not None
    first = EventEditor(hides_ids=True, hides_usage=True)
    first.feed(b"".join(Engine(parser=call_a_tool).stream(CHAT, prepared.body)[:9]))
    other = Engine(parser=call_a_tool, stray=1)
    outcome = ask(other, prepared, first.ledger, CHAT)
    assert isinstance(outcome, Joined)
    assert outcome.splice.feed(b"".join(other.stream(CHAT, prepared.body))) == b""
    assert outcome.splice.failure == "it answers otherwise than the client has read already"


def test_after_a_replica_that_went_on_otherwise_another_may_be_asked() -> None:
    request = body(CHAT, stop=["ly.ab", " sea ü"], max_tokens=20)
    prepared = prepare(request, seed=7)
    assert prepared is not None
    first = EventEditor(hides_ids=True, hides_usage=True)
    out = [first.feed(b"".join(Engine().stream(CHAT, prepared.body)[:9]))]
    for engine in (Engine(stray=1), Engine()):
        outcome = ask(engine, prepared, first.ledger, CHAT)
        assert isinstance(outcome, Joined)
        out.append(outcome.splice.feed(b"".join(engine.stream(outcome.ask.path, outcome.ask.body))))
    assert out[1] == b""
    assert read_stream(b"".join(out)).texts == undisturbed(Engine(), CHAT, request).texts


def test_of_a_finished_stream_nothing_is_missing() -> None:
    prepared = prepare(body(CHAT), seed=7)
    assert prepared is not None
    edits = EventEditor(hides_ids=True, hides_usage=True)
    edits.feed(b"".join(Engine().stream(CHAT, prepared.body)))
    assert ask(Engine(), prepared, edits.ledger, CHAT) == b""


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n": 2}, "several answers"),
        ({"logprobs": True}, "log-probabilities"),
        ({"echo": True}, "echoes"),
    ],
)
def test_what_cannot_be_resumed_says_why_in_one_event(fields: dict[str, Any], words: str) -> None:
    got = play([Engine(), Engine()], CHAT, body(CHAT, **fields), [6])
    assert isinstance(got, Refusal)
    assert got.code == "stream_broken"
    assert words in got.message


def test_thoughts_of_llama_cpp_that_were_sampled_without_a_seed_cannot_be_thought_again() -> None:
    shape = {"names_tokens": False, "parser": think_first}
    got = play([Engine(**shape), Engine(**shape)], CHAT, body(CHAT, temperature=0.7), [6])  # type: ignore[arg-type]
    assert isinstance(got, Refusal)
    assert "without a seed" in got.message


def test_a_sampled_tool_call_is_given_a_seed_so_that_it_can_be_made_again() -> None:
    shape: dict[str, Any] = {"parser": call_a_tool}
    request = body(CHAT, temperature=0.7, tools=TOOLS)
    whole = undisturbed(Engine(**shape), CHAT, body(CHAT, seed=7, tools=TOOLS))
    got = play([Engine(**shape), Engine(**shape)], CHAT, request, [18])
    assert isinstance(got, bytes)
    assert read_stream(got).texts == whole.texts
