"""Which path is translated, and in whose shape its errors are."""

from __future__ import annotations

import json

import pytest

from plinth.gateway.protocol.errors import Refusal
from plinth.gateway.surface.dialects import refusal_document, translate
from plinth.gateway.surface.exchange import Exchange

BODIES = {
    "/v1/messages": b'{"max_tokens":1,"messages":[{"role":"user","content":"Hi"}]}',
    "/v1/responses": b'{"input":"Hi"}',
}


def made(path: str, body: bytes = b"{}") -> Exchange | Refusal | None:
    return translate(path, body, model="m", identity="1", created=1)


@pytest.mark.parametrize("path", BODIES)
def test_other_dialects_are_asked_as_chats(path: str) -> None:
    exchange = made(path, BODIES[path])
    assert exchange is not None
    assert not isinstance(exchange, Refusal)
    assert exchange.path == b"/v1/chat/completions"
    assert json.loads(exchange.body)["messages"] == [{"role": "user", "content": "Hi"}]
    assert exchange.stream() is not None


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank"],
)
def test_what_engines_speak_themselves_goes_on_as_it_came(path: str) -> None:
    assert made(path) is None


def test_counting_goes_on_as_it_came_and_its_errors_are_anthropics() -> None:
    body = b'{"model":"alias","messages":[{"role":"user","content":"Hi"}],"tools":[]}'
    exchange = made("/v1/messages/count_tokens", body)
    assert exchange is not None
    assert not isinstance(exchange, Refusal)
    assert exchange.path == b"/v1/messages/count_tokens"
    assert json.loads(exchange.body) == json.loads(body) | {"model": "m"}
    assert exchange.answer(b'{"input_tokens":3}') == b'{"input_tokens":3}'
    assert exchange.stream() is None
    refused = json.loads(exchange.refusal_body(Refusal(400, "c", "words"), "r"))
    assert refused["error"] == {"type": "invalid_request_error", "message": "words"}


@pytest.mark.parametrize("fields", ["", '"messages":[]', '"messages":[{"role":"user"}]', '"messages":[null]'])
def test_what_cannot_be_sent_is_not_counted_either(fields: str) -> None:
    refused = made("/v1/messages/count_tokens", b"{%b}" % fields.encode())
    assert isinstance(refused, Refusal)
    assert refused.status == 400


def test_errors_come_in_the_shape_of_the_path() -> None:
    refusal = Refusal(401, "no_key", "words")
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        found = json.loads(refusal_document(path, refusal, "r"))
        assert found["error"] == {"type": "authentication_error", "message": "words"}
    assert json.loads(refusal_document("/v1/responses", refusal, "r"))["error"]["code"] == "no_key"
