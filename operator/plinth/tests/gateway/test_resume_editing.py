"""What is added to a request, and what the client gets of each event."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.gateway.resume.asked import needs_replay, obstacle, prepare, read_asked
from plinth.gateway.resume.events import EventEditor

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def event(choice: dict[str, Any], **fields: Any) -> bytes:
    shaped = {**HEAD, "choices": [{"index": 0, **choice}], **fields}
    return f"data: {json.dumps(shaped, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


def token(text: str, ids: list[int] | None, kind: str = "content", **fields: Any) -> bytes:
    choice = {"delta": {kind: text}, "logprobs": None, "finish_reason": None}
    return event({**choice, "token_ids": ids} | fields)


def editor() -> EventEditor:
    return EventEditor(hides_ids=True, hides_usage=True)


def test_what_goes_nowhere_else_is_passed_on_and_not_recorded() -> None:
    prepared = prepare(b'{"stream":true,"prompt":"a"}', 1, resumes=False)
    assert prepared is not None
    assert prepared.body == b'{"stream_options":{"include_usage":true},"stream":true,"prompt":"a"}'
    edits = EventEditor(hides_ids=prepared.hides_ids, hides_usage=prepared.hides_usage, records=False)
    events = [token(text, ids) for text, ids in (("a", [1]), ("b", [2]), ('"', None), ("\\", None))]
    usage = event({}, choices=[], usage={"prompt_tokens": 1, "completion_tokens": 4})
    assert b"".join([edits.feed(one) for one in (*events, usage)]) == b"".join(events)
    assert edits.ledger.usage is not None
    assert edits.ledger.usage.completion_tokens == 4
    assert edits.ledger.runs == []


TEXTS = st.text(st.sampled_from('ab"\\{}[],:\n é🎉') | st.characters(codec="utf-8"), max_size=6)
IDS = st.lists(st.integers(0, 200_000), max_size=3)
KINDS = st.sampled_from(["content", "reasoning"])


@given(
    steps=st.lists(st.tuples(TEXTS, IDS, KINDS), min_size=1, max_size=12), cuts=st.sets(st.integers(0, 11))
)
def test_the_client_gets_what_it_would_get_unasked_and_the_ledger_all_of_it(
    steps: list[tuple[str, list[int], str]], cuts: set[int]
) -> None:
    named = [token(text, ids, kind) for text, ids, kind in steps]
    unasked = [token(text, None, kind) for text, _, kind in steps]
    edits, out, held = editor(), [], b""
    for number, data in enumerate(named):
        held += data
        if number in cuts:
            out.append(edits.feed(held))
            held = b""
    out.append(edits.feed(held))
    assert b"".join(out) == b"".join(unasked)
    runs = edits.ledger.runs
    assert [one for run in runs for ids in run.token_ids() for one in ids] == [
        one for _, ids, _ in steps for one in ids
    ]
    for kind in ("content", "reasoning"):
        wanted = "".join(text for text, _, of in steps if of == kind)
        assert edits.ledger.given().get(kind, "") == wanted


@given(texts=st.lists(TEXTS, min_size=1, max_size=12))
def test_events_without_ids_pass_unchanged(texts: list[str]) -> None:
    events = [event({"finish_reason": None, "delta": {"content": text}}, created=7) for text in texts]
    edits = editor()
    assert b"".join(edits.feed(data) for data in events) == b"".join(events)
    assert edits.ledger.given().get("content", "") == "".join(texts)


def test_an_event_of_the_known_shape_with_a_second_text_in_it_is_read_whole() -> None:
    edits = editor()
    edits.feed(token("so", [1], "content"))
    both = event(
        {
            "delta": {"content": "a", "reasoning": "b"},
            "logprobs": None,
            "finish_reason": None,
            "token_ids": [2],
        }
    )
    edits.feed(both)
    assert edits.ledger.given() == {"content": "soa", "reasoning": "b"}


def test_the_prompts_ids_stay_with_the_gateway() -> None:
    edits = editor()
    first = event({"delta": {"role": "assistant", "content": ""}}, prompt_token_ids=[5, 6])
    assert edits.feed(first) == first.replace(b"[5,6]", b"null")
    assert edits.ledger.prompt_ids == b"[5,6]"
    assert edits.ledger.role_given


def test_an_event_that_only_names_tokens_is_not_passed_on() -> None:
    edits = editor()
    silent = event({"delta": {}, "logprobs": None, "finish_reason": None, "token_ids": [9]})
    assert edits.feed(silent) == b""
    assert edits.ledger.runs[0].token_ids() == [[9]]


def test_a_client_that_asked_for_ids_and_usage_gets_them() -> None:
    edits = EventEditor(hides_ids=False, hides_usage=False)
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}\n\n'
    stream = token("a", [1]) + token("b", [2]) + usage
    assert edits.feed(stream) == stream
    assert edits.ledger.usage is not None
    assert edits.ledger.usage.completion_tokens == 2


def test_an_engines_own_error_is_kept_from_the_client_with_all_that_follows() -> None:
    edits = editor()
    edits.feed(token("a", [1]))
    assert edits.feed(b'data: {"error":{"message":"out of memory"}}\n\ndata: [DONE]\n\n') == b""
    assert edits.failure is not None
    assert "out of memory" in edits.failure
    assert not edits.ledger.finished


NOT_UNDERSTOOD = [
    b"data: {broken\n\n",
    b"data: {}\r\n\r\n",
    b'data: {"choices":[{"index":1}]}\n\n',
    b'data: {"choices":[{"delta":{"content":["a"]}}]}\n\n',
    b'data: {"choices":[{"delta":{"tool_calls":[7]}}]}\n\n',
]


@pytest.mark.parametrize("data", NOT_UNDERSTOOD)
def test_what_is_not_understood_passes_unchanged_and_ends_the_hope_of_resuming(data: bytes) -> None:
    edits = editor()
    assert edits.feed(data) == data
    assert edits.ledger.spoiled


def test_a_comment_passes() -> None:
    edits = editor()
    assert edits.feed(b": still here\n\n") == b": still here\n\n"
    assert edits.ledger.spoiled is None


def test_ids_and_usage_are_asked_for_in_front_of_the_clients_own_fields() -> None:
    prepared = prepare(b' {"model":"m","stream":true,"temperature":0}', seed=5)
    assert prepared is not None
    fields = json.loads(prepared.body)
    assert fields == {
        "return_token_ids": True,
        "stream_options": {"include_usage": True},
        "model": "m",
        "stream": True,
        "temperature": 0,
    }
    assert prepared.hides_ids
    assert prepared.hides_usage


def test_what_the_client_says_itself_is_left_alone() -> None:
    body = b'{"model":"m","stream":true,"return_token_ids":false,"stream_options":{"include_usage":false}}'
    prepared = prepare(body, seed=5)
    assert prepared is not None
    assert prepared.body == body
    assert not prepared.hides_ids


@pytest.mark.parametrize("body", [b'{"model":"m"}', b'{"model":"m","stream":true,"n":"two"}', b"[]", b"{"])
def test_what_is_no_stream_or_wrong_is_not_touched(body: bytes) -> None:
    assert prepare(body, seed=5) is None


@pytest.mark.parametrize(
    ("fields", "replayed"),
    [
        ({}, False),
        ({"tools": []}, False),
        ({"tools": [{}]}, True),
        ({"tools": [{}], "tool_choice": "none"}, False),
        ({"response_format": {"type": "text"}}, False),
        ({"response_format": {"type": "json_object"}}, True),
        ({"presence_penalty": 0.5}, True),
        ({"repetition_penalty": 1.1}, False),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            True,
        ),
        ({"messages": [{"role": "user", "content": 'what is "image_url"?'}]}, False),
    ],
)
def test_only_what_is_more_than_tokens_needs_the_whole_answer_again(
    fields: dict[str, Any],
    replayed: bool,  # noqa: FBT001 - a table's column
) -> None:
    asked = read_asked(json.dumps({"model": "m", "stream": True, **fields}).encode())
    assert asked is not None
    assert obstacle(asked) is None
    assert needs_replay(asked) is replayed


def test_several_prompts_are_an_obstacle_and_a_prompt_of_ids_is_none() -> None:
    for prompt, free in ((["a", "b"], False), ([[1], [2]], False), ([1, 2], True), ("a", True)):
        asked = read_asked(json.dumps({"prompt": prompt}).encode())
        assert asked is not None
        assert (obstacle(asked) is None) is free
