"""The replica's stream taken apart: boundaries, ends, breaks. The same for every dialect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.gateway.protocol.errors import Refusal
from plinth.gateway.surface.chat_stream import ChatStream
from plinth.gateway.surface.messages.stream import MessageWriter
from plinth.gateway.surface.responses.document import Frame
from plinth.gateway.surface.responses.stream import ResponseWriter
from plinth.tests.gateway.surface.chat import THOUGHT_WORDS_AND_CALLS, call, chunk, events, last_chunks, sse

DIALECTS: list[Callable[[], ChatStream]] = [
    lambda: ChatStream(MessageWriter("abc")),
    lambda: ChatStream(ResponseWriter(Frame(identity="abc", created=1, asked={}))),
]
ERRORS = {"error", "response.failed"}
dialects = pytest.mark.parametrize("make", DIALECTS, ids=["messages", "responses"])


@dialects
@given(crlf=st.booleans(), draw=st.data())
def test_the_boundaries_at_which_bytes_arrive_change_nothing(
    make: Callable[[], ChatStream], *, crlf: bool, draw: st.DataObject
) -> None:
    data = b": hello\n\n" + b"".join(THOUGHT_WORDS_AND_CALLS)
    whole = make()
    expected = whole.feed(data) + whole.end()
    if crlf:
        data = data.replace(b"\n", b"\r\n")
    cuts = sorted(draw.draw(st.sets(st.integers(0, len(data)), max_size=12)))
    stream, told = make(), b""
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        told += stream.feed(data[start:end])
    assert told + stream.end() == expected


@dialects
def test_a_stream_without_done_is_closed_all_the_same(make: Callable[[], ChatStream]) -> None:
    stream = make()
    told = stream.feed(chunk(content="x") + chunk(finish="stop").rstrip(b"\n")) + stream.end()
    assert events(told)[-1][0] in {"message_stop", "response.completed"}
    assert stream.end() == b""


@dialects
@pytest.mark.parametrize(
    "ending",
    [
        b"data: {nonsense}\n\n",
        sse({"error": {"message": "out of memory", "code": 500}}),
        b"data: [DONE]\n\n",
        b"",
        chunk(tool_calls=call(1, name="g")) + chunk(tool_calls=call(0, arguments="{}") + call(2, name="h")),
    ],
    ids=["nonsense", "an error of the engine", "no finish reason", "nothing", "back to an earlier call"],
)
def test_what_ends_wrong_says_so_once(make: Callable[[], ChatStream], ending: bytes) -> None:
    stream = make()
    told = stream.feed(chunk(content="x") + ending + last_chunks()) + stream.end()
    kinds = [kind for kind, _ in events(told)]
    assert [kind for kind in kinds if kind in ERRORS] == kinds[-1:]


@dialects
def test_a_break_before_the_first_chunk_still_begins_and_fails(make: Callable[[], ChatStream]) -> None:
    kinds = [kind for kind, _ in events(make().fail(Refusal(503, "c", "words")))]
    assert kinds[0] in {"message_start", "response.created"}
    assert kinds[-1] in ERRORS


@dialects
def test_an_event_without_an_end_is_not_held_for_ever(make: Callable[[], ChatStream]) -> None:
    stream = make()
    told = stream.feed(b"data: " + b"x" * 5_000_000)
    assert events(told)[-1][0] in ERRORS


SPOKEN = st.lists(
    st.tuples(st.sampled_from(["reasoning", "content", "call", "more"]), st.text(max_size=6)), max_size=12
)


@dialects
@given(SPOKEN)
def test_nothing_that_the_model_says_is_lost_or_doubled(
    make: Callable[[], ChatStream], spoken: list[tuple[str, str]]
) -> None:
    stream, told, calls = make(), b"", -1
    said = {"reasoning": "", "content": "", "arguments": ""}
    for kind, text in spoken:
        if kind == "call":
            calls += 1
            told += stream.feed(chunk(tool_calls=call(calls, name="f")))
        elif kind == "more":
            if calls >= 0:
                said["arguments"] += text
                told += stream.feed(chunk(tool_calls=call(calls, arguments=text)))
        else:
            said[kind] += text
            told += stream.feed(chunk(**{kind: text}))
    told += stream.feed(chunk(finish="stop") + last_chunks())
    found = {"reasoning": "", "content": "", "arguments": ""}
    for kind, event in events(told):
        delta: Any = event.get("delta")
        if kind in {"response.reasoning_text.delta", "response.output_text.delta"}:
            found["reasoning" if "reasoning" in kind else "content"] += delta
        elif kind == "response.function_call_arguments.delta":
            found["arguments"] += delta
        elif kind == "content_block_delta":
            found["reasoning"] += delta.get("thinking", "")
            found["content"] += delta.get("text", "")
            found["arguments"] += delta.get("partial_json", "")
    assert found == said
