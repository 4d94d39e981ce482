"""Both dialects and the native endpoints against a real engine (llama.cpp): what it takes and what it answers."""

from __future__ import annotations

import json
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from openai.types.responses import Response

from plinth.gateway.protocol.errors import Refusal
from plinth.gateway.surface.chat import engine_refusal
from plinth.gateway.surface.dialects import translate
from plinth.gateway.surface.exchange import Exchange
from plinth.gateway.surface.native import LLAMA_CPP, translate_native
from plinth.tests.gateway.real_llamacpp import serve_llamacpp
from plinth.tests.gateway.surface.chat import Event, events
from plinth.tests.gateway.surface.test_messages_answers import assembled

pytestmark = pytest.mark.process
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.fixture(scope="module")
def engine() -> Any:
    return serve_llamacpp(slots=1, context=2048, model_alias={"tiny"})


def exchange_for(path: str, **fields: Any) -> Exchange:
    body = json.dumps(fields).encode()
    made: Exchange | Refusal | None = translate_native(path, body, model="tiny", engine=LLAMA_CPP)
    if made is None:
        made = translate(path, body, model="tiny", identity="abc", created=1)
    assert made is not None
    assert not isinstance(made, Refusal), made
    return made


def post(engine: Any, exchange: Exchange) -> bytes:
    request = Request(  # noqa: S310 - the engine's own address
        engine.listening_address + exchange.path.decode(),
        exchange.body,
        {"content-type": "application/json"},
    )
    with urlopen(request, timeout=60) as answer:  # noqa: S310 - as above
        body: bytes = answer.read()
        return body


def ask(engine: Any, path: str, **fields: Any) -> Any:
    exchange = exchange_for(path, **fields)
    return json.loads(exchange.answer(post(engine, exchange)))


def streamed(engine: Any, path: str, **fields: Any) -> list[Event]:
    exchange = exchange_for(path, stream=True, **fields)
    translation = exchange.stream()
    assert translation is not None
    return events(translation.feed(post(engine, exchange)) + translation.end())


GREETING: Any = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}


def test_a_message_whole_and_streamed_say_the_same(engine: Any) -> None:
    whole = ask(engine, "/v1/messages", system="Be brief.", **GREETING)
    told = assembled(streamed(engine, "/v1/messages", system="Be brief.", **GREETING))
    assert whole["content"][0]["text"]
    assert told["content"] == whole["content"]
    assert (told["stop_reason"], told["model"]) == (whole["stop_reason"], "tiny")
    assert sum(told["usage"].values()) == sum(whole["usage"].values()) > 8


def test_a_response_whole_and_streamed_say_the_same(engine: Any) -> None:
    asked: Any = {"input": "Say hello.", "max_output_tokens": 8, "temperature": 0}
    whole = Response.model_validate(ask(engine, "/v1/responses", **asked))
    told = Response.model_validate(streamed(engine, "/v1/responses", **asked)[-1][1]["response"])
    assert whole.output_text
    assert told.output_text == whole.output_text
    assert told.status == whole.status
    assert told.usage is not None
    assert whole.usage is not None
    assert told.usage.total_tokens == whole.usage.total_tokens


def test_an_answer_that_the_client_began_goes_on(engine: Any) -> None:
    talk = [*GREETING["messages"], {"role": "assistant", "content": "Hello, my name is"}]
    assert ask(engine, "/v1/messages", messages=talk, max_tokens=6, temperature=0)["content"][0]["text"]


def test_a_conversation_with_a_call_and_its_result_is_taken(engine: Any) -> None:
    items = [
        {"role": "user", "content": "Weather in Oslo?"},
        {
            "type": "reasoning",
            "id": "r",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "hm"}],
        },
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Oslo"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
    ]
    tools = [{"type": "function", "name": "weather", "parameters": WEATHER}]
    for choice in ("auto", {"type": "function", "name": "weather"}):
        asked: Any = {"input": items, "tools": tools, "tool_choice": choice, "max_output_tokens": 8}
        assert ask(engine, "/v1/responses", **asked)["output"]


def test_text_to_tokens_and_back(engine: Any) -> None:
    told = ask(engine, "/tokenize", prompt="hello world", return_token_strs=True)
    assert told["count"] == len(told["tokens"]) == 2
    assert told["token_strs"] == ["hello", " world"]
    assert ask(engine, "/detokenize", tokens=told["tokens"]) == {"prompt": "hello world"}


def test_an_engines_refusal_is_said_in_the_clients_shape(engine: Any) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    exchange = exchange_for("/v1/messages", messages=[{"role": "user", "content": [image]}], max_tokens=4)
    with pytest.raises(HTTPError) as refused:
        post(engine, exchange)
    refusal = engine_refusal(refused.value.code, refused.value.read())
    found = json.loads(exchange.refusal_body(refusal, "r"))
    assert "image input is not supported" in found["error"]["message"]
