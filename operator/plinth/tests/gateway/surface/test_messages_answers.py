"""What the Messages API's clients get."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plinth.gateway.protocol.errors import Refusal, stream_broken
from plinth.gateway.surface.chat import TranslationError, engine_refusal
from plinth.gateway.surface.messages.exchange import MessagesExchange, translate_message
from plinth.tests.gateway.surface.chat import (
    THOUGHT_WORDS_AND_CALLS,
    Event,
    call,
    chunk,
    completion,
    events,
    last_chunks,
)


def exchange() -> MessagesExchange:
    made = translate_message(
        b'{"max_tokens":1,"messages":[{"role":"user","content":"Hi"}]}', model="m", identity="abc"
    )
    assert isinstance(made, MessagesExchange)
    return made


def stream(*chunks: bytes) -> list[Event]:
    translation = exchange().stream()
    return events(b"".join([translation.feed(data) for data in chunks]) + translation.end())


def assembled(told: list[Event]) -> Any:
    """What a client makes of the events; the order is checked on the way."""
    message: Any = None
    open_block = -1
    for kind, event in told:
        if kind == "message_start":
            assert message is None
            message = event["message"]
        elif kind == "content_block_start":
            assert open_block == -1
            assert event["index"] == len(message["content"])
            open_block = event["index"]
            message["content"].append(event["content_block"] | {"partial": ""})
        elif kind == "content_block_delta":
            assert event["index"] == open_block
            delta, block = event["delta"], message["content"][open_block]
            if delta["type"] == "input_json_delta":
                block["partial"] += delta["partial_json"]
            else:
                name = delta["type"].removesuffix("_delta")
                block[name] += delta[name]
        elif kind == "content_block_stop":
            assert event["index"] == open_block
            block = message["content"][open_block]
            partial = block.pop("partial")
            if partial:
                block["input"] = json.loads(partial)
            open_block = -1
        elif kind == "message_delta":
            message |= event["delta"] | {"usage": event["usage"]}
    assert open_block == -1
    assert told[-1][0] == "message_stop"
    return message


def test_a_whole_answer_holds_thoughts_words_and_calls() -> None:
    body = completion(
        finish="tool_calls",
        content="Let me see.",
        reasoning="I should look.",
        tool_calls=[
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"a":1}'}}
        ],
    )
    assert json.loads(exchange().answer(body)) == {
        "id": "msg_abc",
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [
            {"type": "thinking", "thinking": "I should look.", "signature": ""},
            {"type": "text", "text": "Let me see."},
            {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 5,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 2,
            "output_tokens": 3,
        },
    }


@pytest.mark.parametrize(
    ("finish", "stop", "expected"),
    [
        ("stop", None, ("end_turn", None)),
        ("stop", "END", ("stop_sequence", "END")),
        ("length", None, ("max_tokens", None)),
        ("content_filter", None, ("refusal", None)),
    ],
)
def test_why_it_ended(finish: str, stop: str | None, expected: tuple[str, str | None]) -> None:
    found = json.loads(exchange().answer(completion(finish=finish, stop=stop, content="x")))
    assert (found["stop_reason"], found["stop_sequence"]) == expected
    told = assembled(stream(chunk(content="x"), chunk(finish=finish, stop=stop), last_chunks()))
    assert (told["stop_reason"], told["stop_sequence"]) == expected


def test_a_demanded_call_that_vllm_ends_with_stop_is_a_tool_use() -> None:
    named = [{"id": "c", "function": {"name": "f", "arguments": "not json"}}]
    found = json.loads(exchange().answer(completion(content=None, tool_calls=named)))
    assert found["stop_reason"] == "tool_use"
    assert found["content"][0]["input"] == {"invalid_arguments": "not json"}
    told = stream(chunk(tool_calls=call(0, name="f")), chunk(finish="stop"), last_chunks())
    assert assembled(told)["stop_reason"] == "tool_use"


def test_a_stream_says_everything_in_blocks_one_after_the_other() -> None:
    message = assembled(stream(*THOUGHT_WORDS_AND_CALLS))
    assert message["content"] == [
        {"type": "thinking", "thinking": "I should look.", "signature": ""},
        {"type": "text", "text": "Let me see. \u2603"},
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}},
        {"type": "text", "text": " And "},
        {"type": "tool_use", "id": "toolu_abc_4", "name": "time", "input": {}},
    ]
    assert message["stop_reason"] == "tool_use"
    assert message["usage"] == {
        "input_tokens": 15,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 5,
        "output_tokens": 9,
    }


def test_an_empty_answer_has_one_empty_block() -> None:
    assert json.loads(exchange().answer(completion(content="")))["content"] == [{"type": "text", "text": ""}]
    assert assembled(stream(chunk(finish="stop"), last_chunks()))["content"] == [{"type": "text", "text": ""}]


def test_a_broken_stream_ends_with_one_error_event() -> None:
    translation = exchange().stream()
    told = translation.feed(chunk(content="x")) + translation.fail(stream_broken("gone"))
    assert events(told)[-1][0] == "error"
    assert events(told)[-1][1]["error"]["type"] == "api_error"
    assert translation.feed(chunk(content="y")) + translation.end() == b""


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429, 500, 503, 504])
def test_every_error_has_anthropics_shape(status: int) -> None:
    body = exchange().refusal_body(Refusal(status, "code", "words"), "req-1")
    found = json.loads(body)
    assert found == {
        "type": "error",
        "error": {"type": found["error"]["type"], "message": "words"},
        "request_id": "req-1",
    }
    assert found["error"]["type"].endswith(("_error", "_too_large"))


def test_an_engines_error_keeps_its_words() -> None:
    assert engine_refusal(400, b'{"error":{"message":"too long"}}').message == "too long"
    assert engine_refusal(500, b"oh no").message == "oh no"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"choices":[{"index":0}]}'])
def test_an_answer_that_is_no_chat_completion_is_an_error(body: bytes) -> None:
    with pytest.raises(TranslationError):
        exchange().answer(body)
