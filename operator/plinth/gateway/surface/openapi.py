"""The OpenAPI 3.1 document, made of the table of operations and the models that are served. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from plinth.gateway.surface.operations import EVENT_STREAM, JSON, OPERATIONS, TEXT, Operation
from plinth.gateway.surface.schemas import SCHEMAS, Schema, ref

_REFUSALS: Final = {
    "400": "The request is wrong; the answer names the field.",
    "401": "There is no key, or it is not known.",
    "403": "The key may not do this, or its quota is used up.",
    "404": "There is no such model.",
    "408": "The request took too long to arrive.",
    "413": "The request is too large.",
    "429": "A rate limit is reached, or the queue is full; `retry-after-ms` says when to come again.",
    "502": "The replica answered something that cannot be passed on.",
    "503": "No replica can answer now.",
    "504": "The replica sent nothing in time.",
}
_WITHOUT_MODEL: Final = ("401", "403", "404", "408", "503")
_KEYS: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"apiKey": []}]
_HEADERS: Final = {
    "x-request-id": {"description": "Names the request in logs.", "schema": {"type": "string"}},
}


def make_document(models: Mapping[str, str], version: str) -> dict[str, Any]:
    """The document.

    Args:
        models: the task of each model by the name it is listed under; they become examples.
        version: of the product.
    """
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, models)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Plinth",
            "version": version,
            "description": "One gateway to all models, in OpenAI's and Anthropic's shapes.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(each.tag for each in OPERATIONS)],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(operation: Operation, models: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "responses": {"200": _answer(operation)} | _refusals(operation),
        "security": _KEYS if operation.needs_key else [],
    }
    if "{model}" in operation.path:
        found["parameters"] = [
            {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        ]
    if operation.takes:
        content: dict[str, Any] = {"schema": ref(operation.takes)}
        fitting = sorted(name for name, task in models.items() if task == operation.task)
        if operation.example is not None and fitting:
            content["example"] = {"model": fitting[0]} | operation.example
        found["requestBody"] = {"required": True, "content": {JSON: content}}
    return found


def _answer(operation: Operation) -> dict[str, Any]:
    schema: Schema = ref(operation.gives) if operation.gives else {"type": "string"}
    content: dict[str, Any] = {operation.media: {"schema": schema}}
    if operation.streams:
        content[EVENT_STREAM] = {"schema": {"description": "Events, when `stream` was true."}}
    return {"description": "The answer.", "headers": _HEADERS, "content": content}


def _refusals(operation: Operation) -> dict[str, Any]:
    if not operation.error:
        schema: Schema = ref(operation.gives) if operation.gives else {"type": "string"}
        content = {operation.media if operation.gives else TEXT: {"schema": schema}}
        return {"503": {"description": "Not now.", "headers": _HEADERS, "content": content}}
    statuses = tuple(_REFUSALS) if operation.task else _WITHOUT_MODEL
    content = {JSON: {"schema": ref(operation.error)}}
    said = {status: _REFUSALS[status] for status in statuses} | {"default": "Any other error."}
    return {
        status: {"description": text, "headers": _HEADERS, "content": content}
        for status, text in said.items()
    }
