"""The Responses API, judged by OpenAI's own client: its types and what it makes of a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from plinth.gateway.protocol.errors import Refusal, error_body
from plinth.gateway.surface.responses.exchange import ResponsesExchange, translate_response
from plinth.tests.gateway.surface.chat import THOUGHT_WORDS_AND_CALLS, chunk, completion, events, last_chunks

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def exchange(**fields: Any) -> ResponsesExchange:
    made = translate_response(
        json.dumps({"model": "asked", "input": "Hi"} | fields).encode(),
        model="served",
        identity="abc",
        created=5,
    )
    assert isinstance(made, ResponsesExchange), made
    return made


def asked(**fields: Any) -> Any:
    return json.loads(exchange(**fields).body)


def refused(**fields: Any) -> Refusal:
    made = translate_response(
        json.dumps({"input": "Hi"} | fields).encode(), model="served", identity="abc", created=5
    )
    assert isinstance(made, Refusal)
    return made


def final(*chunks: bytes, **fields: Any) -> Response:
    """What OpenAI's client makes of the stream; every event must be of its types."""
    stream = exchange(**fields).stream()
    told = events(b"".join([stream.feed(data) for data in chunks]) + stream.end())
    assert [event["sequence_number"] for _, event in told] == list(range(len(told)))
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for _, document in told:
        event = EVENT.validate_python(document)
        state.handle_event(event)
    return Response.model_validate(told[-1][1]["response"])


def test_the_plain_case_goes_to_the_engines_name_and_nothing_is_added() -> None:
    assert asked(temperature=0.5, max_output_tokens=9, store=True, prompt_cache_key="x") == {
        "model": "served",
        "messages": [{"role": "user", "content": "Hi"}],
        "temperature": 0.5,
        "max_tokens": 9,
    }


def test_instructions_and_leading_system_items_are_one_system_message() -> None:
    items = [
        {"role": "developer", "content": "b"},
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "message", "role": "system", "content": "c"},
    ]
    assert asked(instructions="a", input=items)["messages"] == [
        {"role": "system", "content": "a\n\nb"},
        {"role": "user", "content": "Hi"},
        {"role": "system", "content": "c"},
    ]


def test_an_assistants_thoughts_words_and_calls_become_one_message_and_results_follow() -> None:
    items = [
        {"role": "user", "content": "weather?"},
        {
            "type": "reasoning",
            "id": "r",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "hm"}],
        },
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "ok", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "sun"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [
                {"type": "input_text", "text": "see"},
                {"type": "input_image", "image_url": "u", "detail": "low"},
            ],
        },
    ]
    messages = asked(input=items)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "user"]
    assert messages[1]["reasoning"] == "hm"
    assert messages[1]["content"] == "ok"
    assert [one["id"] for one in messages[1]["tool_calls"]] == ["c1", "c2"]
    assert messages[2] == {"role": "tool", "tool_call_id": "c1", "content": "sun"}
    assert messages[4]["content"] == [{"type": "image_url", "image_url": {"url": "u", "detail": "low"}}]


def test_functions_and_how_to_choose_among_them() -> None:
    tools = [
        {"type": "function", "name": name, "parameters": {"type": "object"}, "strict": True}
        for name in ("f", "g")
    ]
    assert asked(tools=tools)["tools"][0]["function"] == {
        "name": "f",
        "parameters": {"type": "object"},
        "strict": True,
    }
    assert asked(tools=tools, tool_choice="required")["tool_choice"] == "required"
    named = asked(tools=tools, tool_choice={"type": "function", "name": "g"})
    assert (named["tool_choice"], [tool["function"]["name"] for tool in named["tools"]]) == (
        "required",
        ["g"],
    )
    some = asked(
        tools=tools,
        tool_choice={"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]},
    )
    assert [tool["function"]["name"] for tool in some["tools"]] == ["g"]
    none = asked(tools=[], tool_choice="auto", parallel_tool_calls=True)
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & none.keys()


def test_form_effort_and_log_probabilities() -> None:
    shape = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    found = asked(text={"format": shape}, reasoning={"effort": "low"}, top_logprobs=2)
    assert found["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
    }
    assert (found["reasoning_effort"], found["logprobs"], found["top_logprobs"]) == ("low", True, 2)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        ({"max_output_tokens": "many"}, "max_output_tokens"),
    ],
)
def test_what_cannot_be_said_is_refused_by_the_fields_name(fields: Any, param: str) -> None:
    refusal = refused(**fields)
    assert (refusal.status, refusal.param) == (400, param)


def test_a_whole_answer_is_a_response_to_openais_client() -> None:
    body = completion(
        finish="tool_calls",
        content="Let me see.",
        reasoning="Hm.",
        tool_calls=[{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    )
    found = Response.model_validate_json(exchange(metadata={"a": "b"}, temperature=0.5).answer(body))
    assert [item.type for item in found.output] == ["reasoning", "message", "function_call"]
    assert (found.output_text, found.status, found.id, found.created_at) == (
        "Let me see.",
        "completed",
        "resp_abc",
        5,
    )
    assert (found.metadata, found.temperature, found.model) == ({"a": "b"}, 0.5, "tiny")
    assert found.usage is not None
    assert (found.usage.input_tokens, found.usage.input_tokens_details.cached_tokens) == (7, 2)


def test_a_stream_ends_with_the_same_response_that_its_events_told() -> None:
    found = final(*THOUGHT_WORDS_AND_CALLS)
    assert [item.type for item in found.output] == [
        "reasoning",
        "message",
        "function_call",
        "message",
        "function_call",
    ]
    assert found.output_text == "Let me see. \u2603 And "
    calls = [item for item in found.output if item.type == "function_call"]
    assert [(one.name, one.arguments, one.call_id) for one in calls] == [
        ("weather", '{"city":"Oslo"}', "call_1"),
        ("time", "{}", "call_abc_4"),
    ]
    assert found.usage is not None
    assert found.usage.total_tokens == 29


def test_an_answer_cut_short_is_incomplete_and_says_why() -> None:
    for found in (
        final(chunk(content="x"), chunk(finish="length"), last_chunks()),
        Response.model_validate_json(exchange().answer(completion(finish="length", content="x"))),
    ):
        assert found.status == "incomplete"
        assert found.incomplete_details is not None
        assert found.incomplete_details.reason == "max_output_tokens"
        assert found.output[0].type == "message"
        assert found.output[0].status == "incomplete"


def test_an_empty_answer_has_one_empty_message() -> None:
    assert final(chunk(finish="stop"), last_chunks()).output_text == ""


def test_log_probabilities_go_on_as_they_are() -> None:
    entry = {"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": []}
    raw = json.loads(completion(content="x"))
    raw["choices"][0]["logprobs"] = {"content": [entry]}
    found = json.loads(exchange(top_logprobs=1).answer(json.dumps(raw).encode()))
    assert found["output"][0]["content"][0]["logprobs"] == [entry]


def test_a_failed_stream_tells_how_far_it_came() -> None:
    stream = exchange().stream()
    told = stream.feed(chunk(content="half"))
    told += stream.fail(Refusal(502, "stream_broken", "the replica died"))
    kind, event = events(told)[-1]
    assert kind == "response.failed"
    found = Response.model_validate(event["response"])
    assert (found.output_text, found.status) == ("half", "failed")
    assert found.error is not None
    assert found.error.message == "the replica died"


def test_errors_have_openais_shape() -> None:
    refusal = Refusal(404, "model_not_found", "words")
    assert exchange().refusal_body(refusal, "req-1") == error_body(refusal)


NAMES = ["type", "role", "content", "text", "call_id", "output", "name", "arguments", "summary"]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.sampled_from(["message", "function_call", "user", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(["input", "tools", "tool_choice", "text", "reasoning", "include"]), JSON)
)
def test_any_json_is_translated_or_refused(fields: Any) -> None:
    made = translate_response(
        json.dumps({"input": "Hi"} | fields).encode(), model="m", identity="1", created=0
    )
    assert isinstance(made, Refusal) or json.loads(made.body)["model"] == "m"
