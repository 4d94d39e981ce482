"""What the Messages API asks for, as engines are asked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.gateway.protocol.errors import Refusal
from plinth.gateway.surface.messages.exchange import translate_message


def asked(**fields: Any) -> Any:
    body = {"model": "asked", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]} | fields
    made = translate_message(json.dumps(body).encode(), model="served", identity="1")
    assert not isinstance(made, Refusal), made.message
    return json.loads(made.body)


def refused(**fields: Any) -> Refusal:
    body = {"model": "asked", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]} | fields
    made = translate_message(
        json.dumps({k: v for k, v in body.items() if v is not ...}, default=str).encode(),
        model="m",
        identity="1",
    )
    assert isinstance(made, Refusal)
    assert made.status == 400
    return made


def said(*blocks: Any, role: str = "user") -> Any:
    return asked(messages=[{"role": "user", "content": "Hi"}, {"role": role, "content": list(blocks)}])[
        "messages"
    ][1:]


def test_the_plain_case_goes_to_the_engines_name_and_nothing_is_added() -> None:
    assert asked(temperature=0, top_k=5) == {
        "model": "served",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "Hi"}],
        "temperature": 0,
        "top_k": 5,
    }


def test_a_stream_asks_for_its_usage() -> None:
    assert asked(stream=True)["stream_options"] == {"include_usage": True}
    assert "stream" not in asked(stream=False)


def test_system_text_comes_first_in_one_message_however_it_is_given() -> None:
    both = asked(
        system=[
            {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "b"},
        ],
        messages=[{"role": "system", "content": "c"}, {"role": "user", "content": "Hi"}],
    )
    assert both["messages"][0] == {"role": "system", "content": "a\nb\nc"}
    assert [message["role"] for message in both["messages"]] == ["system", "user"]


def test_a_system_message_amid_the_conversation_keeps_its_place() -> None:
    later = asked(messages=[{"role": "user", "content": "Hi"}, {"role": "system", "content": "be brief"}])
    assert later["messages"][1] == {"role": "system", "content": "be brief"}


def test_images_go_on_as_they_are() -> None:
    data = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    link = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    assert said({"type": "text", "text": "what?"}, data, link) == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "what?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
            ],
        }
    ]


def test_tools_and_their_results_keep_ids_order_and_images() -> None:
    result = {
        "type": "tool_result",
        "tool_use_id": "t1",
        "is_error": True,
        "content": [{"type": "text", "text": "no"}, {"type": "image", "source": {"type": "url", "url": "u"}}],
    }
    assert said({"type": "text", "text": "so?"}, result) == [
        {"role": "tool", "tool_call_id": "t1", "content": "Error:\nno"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "so?"},
                {"type": "image_url", "image_url": {"url": "u"}},
            ],
        },
    ]
    assert said({"type": "tool_result", "tool_use_id": "t1"}) == [
        {"role": "tool", "tool_call_id": "t1", "content": ""}
    ]


def test_an_assistants_thoughts_words_and_calls_are_one_message() -> None:
    (message,) = said(
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "ok"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
        role="assistant",
    )
    assert message["reasoning"] == message["reasoning_content"] == "hm"
    assert message["content"] == "ok"
    assert message["tool_calls"] == [
        {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    ]


def test_an_answer_that_the_client_began_is_continued() -> None:
    begun = asked(messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "It"}])
    assert (begun["continue_final_message"], begun["add_generation_prompt"]) == (True, False)


def test_tools_and_how_to_choose_among_them() -> None:
    tool = {"name": "f", "description": "d", "input_schema": {"type": "object"}, "cache_control": {}}
    one = asked(tools=[tool], tool_choice={"type": "any", "disable_parallel_tool_use": True})
    assert one["tools"] == [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    ]
    assert (one["tool_choice"], one["parallel_tool_calls"]) == ("required", False)
    named = asked(tools=[tool, tool | {"name": "g"}], tool_choice={"type": "tool", "name": "g"})
    assert (named["tool_choice"], [one["function"]["name"] for one in named["tools"]]) == ("required", ["g"])


def test_thinking_effort_and_form_are_said_as_engines_take_them() -> None:
    found = asked(
        thinking={"type": "disabled"},
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        metadata={"user_id": "u"},
        stop_sequences=["."],
    )
    assert found["chat_template_kwargs"] == {"enable_thinking": False}
    assert found["reasoning_effort"] == "low"
    assert found["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert (found["user"], found["stop"]) == ("u", ["."])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": ...}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0].type"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "tool", "name": "f"}}, "tool_choice.name"),
        ({"stop_sequences": [1]}, "stop_sequences[0]"),
    ],
)
def test_what_cannot_be_said_is_refused_by_the_fields_name(fields: Any, param: str) -> None:
    refusal = refused(**fields)
    assert refusal.param == param
    assert param in refusal.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "text", "role", "content", "source", "input", "name", "id", "tool_use_id"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "messages",
                "system",
                "tools",
                "tool_choice",
                "thinking",
                "output_config",
                "metadata",
                "stop_sequences",
                "max_tokens",
            ]
        ),
        JSON,
    )
)
def test_any_json_is_translated_or_refused(fields: Any) -> None:
    body = json.dumps({"max_tokens": 1, "messages": [{"role": "user", "content": ""}]} | fields).encode()
    made = translate_message(body, model="m", identity="1")
    assert isinstance(made, Refusal) or json.loads(made.body)["model"] == "m"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"\xff"', b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    assert isinstance(translate_message(body, model="m", identity="1"), Refusal)
