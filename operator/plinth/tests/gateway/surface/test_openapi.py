"""The OpenAPI document and the page made of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from plinth import __version__
from plinth.gateway.protocol.endpoints import PATHS, Answer, Endpoint, match
from plinth.gateway.protocol.errors import Refusal, error_body
from plinth.gateway.server.surface_pages import surface_answers
from plinth.gateway.surface.docs_page import docs_page
from plinth.gateway.surface.messages.exchange import MessagesExchange, translate_message
from plinth.gateway.surface.openapi import make_document
from plinth.gateway.surface.operations import OPERATIONS, Operation
from plinth.gateway.surface.responses.exchange import ResponsesExchange, translate_response
from plinth.gateway.surface.schemas import SCHEMAS
from plinth.tests.gateway.surface.chat import completion

MODELS = {"tiny": "Generate", "vectors": "Embed", "ranks": "Rerank"}
DOCUMENT = make_document(MODELS, "1.2.3")
CALLS = [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]


def check(schema: str, value: Any) -> None:
    resource = DRAFT202012.create_resource(DOCUMENT)
    registry: Registry[Any] = Registry().with_resource("urn:api", resource)
    at = {"$ref": f"urn:api#/components/schemas/{schema}"}
    Draft202012Validator(at, registry=registry).validate(value)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (item for name, item in value.items() if name == "$ref")
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_what_is_documented_is_what_is_answered() -> None:
    assert set(PATHS) <= set(DOCUMENT["paths"])
    for operation in OPERATIONS:
        target = operation.path.replace("{model}", "team/tiny").encode()
        found = match(operation.method.upper().encode(), target)
        assert isinstance(found, Endpoint), operation.name
        assert (found.answer is Answer.REPLICA) == bool(operation.task)
        assert found.needs_key == operation.needs_key


def test_the_document_and_the_page_are_answered_and_nothing_else() -> None:
    document = surface_answers("/openapi.json", MODELS)
    page = surface_answers("/docs", {})
    assert document is not None
    assert page is not None
    assert json.loads(document[2]) == json.loads(json.dumps(make_document(MODELS, __version__)))
    assert page == (200, *docs_page())
    assert surface_answers("/v1/models", MODELS) is None


def test_every_reference_leads_somewhere_and_every_shape_is_used() -> None:
    used = {item.removeprefix("#/components/schemas/") for item in references(DOCUMENT)}
    assert used == set(SCHEMAS)


def test_every_shape_is_a_json_schema() -> None:
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)


def test_operations_have_names_of_their_own_and_declare_their_path_parameters() -> None:
    names = [operation.name for operation in OPERATIONS]
    assert len(set(names)) == len(names)
    for path, method in CALLS:
        declared = {item["name"] for item in DOCUMENT["paths"][path][method].get("parameters", ())}
        assert declared == set(re.findall(r"{(\w+)}", path))


@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.takes], ids=lambda each: each.name)
def test_every_example_names_a_model_of_the_task_and_fits_its_shape(operation: Operation) -> None:
    content = DOCUMENT["paths"][operation.path]["post"]["requestBody"]["content"]["application/json"]
    assert MODELS[content["example"]["model"]] == operation.task
    check(operation.takes, content["example"])


def test_without_models_there_are_no_examples() -> None:
    assert "example" not in json.dumps(make_document({}, "1")["paths"])


def test_what_translations_write_fits_the_shapes() -> None:
    message = translate_message(
        b'{"max_tokens":1,"messages":[{"role":"user","content":""}]}', model="m", identity="1"
    )
    response = translate_response(b'{"input":"Hi"}', model="m", identity="1", created=1)
    assert isinstance(message, MessagesExchange)
    assert isinstance(response, ResponsesExchange)
    answer = completion(content="x", reasoning="y", tool_calls=[{"id": "c", "function": {"name": "f"}}])
    check("Message", json.loads(message.answer(answer)))
    check("Response", json.loads(response.answer(answer)))
    check("ChatAnswer", json.loads(answer) | {"object": "chat.completion"})
    refusal = Refusal(429, "c", "words")
    check("AnthropicError", json.loads(message.refusal_body(refusal, "r")))
    check("Error", json.loads(error_body(refusal)))


def test_the_page_loads_nothing_from_elsewhere_and_runs_only_its_own_script() -> None:
    headers, page = docs_page()
    policy = dict(headers)[b"content-security-policy"].decode()
    assert not re.search(rb"""(?:src|href)=["']?(?:https?:)?//""", page)
    scripts = re.findall(rb"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 1
    assert base64.b64encode(hashlib.sha256(scripts[0]).digest()).decode() in policy
    assert not re.search(rb"\son\w+=|style=", page)
