"""Answers that need no replica: models, health, metrics."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import msgspec

from plinth.gateway.protocol.endpoints import MODEL_PREFIX, Answer
from plinth.gateway.protocol.errors import Refusal, no_table_yet
from plinth.gateway.routing.names import model_not_found
from plinth.gateway.server.core import Core
from plinth.gateway.server.fleet import Model

_JSON = [(b"content-type", b"application/json")]
_TEXT = [(b"content-type", b"text/plain; charset=utf-8")]
_METRICS = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]

Local = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers, body."""


def answer_locally(core: Core, answer: Answer, target: bytes) -> Local | Refusal:
    """The gateway's own answer."""
    if answer is Answer.HEALTH:
        return _health(core)
    if answer is Answer.READY:
        return _readiness(core)
    if answer is Answer.LIVE:
        return 200, _TEXT, b"ok\n"
    if answer is Answer.METRICS:
        return 200, _METRICS, core.metrics.text()
    return _models(core, target)


def _health(core: Core) -> Local:
    fleet = core.fleet
    body = {
        "status": "draining" if core.draining else "ok",
        "models": len(fleet.models),
        "table_version": fleet.version,
        "gateway": core.identity,
    }
    return 503 if core.draining else 200, _JSON, msgspec.json.encode(body)


def _readiness(core: Core) -> Local:
    """Whether new connections should come here: not before there is a table, nor while draining."""
    if core.draining:
        return 503, _TEXT, b"draining\n"
    if core.fleet.version == 0:
        return 503, _TEXT, b"no route table yet\n"
    return 200, _TEXT, b"ok\n"


def _models(core: Core, target: bytes) -> Local | Refusal:
    fleet = core.fleet
    path = target.partition(b"?")[0]
    if not path.startswith(MODEL_PREFIX) or len(path) == len(MODEL_PREFIX):
        listed = [_describe(fleet.by_name[name], name) for name in fleet.listed_names()]
        return 200, _JSON, msgspec.json.encode({"object": "list", "data": listed})
    name = unquote(path[len(MODEL_PREFIX) :].decode("latin-1"))
    model = fleet.by_name.get(name)
    if model is None:
        return no_table_yet() if fleet.version == 0 else model_not_found(name, fleet.listed_names())
    return 200, _JSON, msgspec.json.encode(_describe(model, name))


def _describe(model: Model, name: str) -> dict[str, Any]:
    route = model.route
    return {
        "id": name,
        "object": "model",
        "created": route.created,
        "owned_by": route.model.partition("/")[0],
    }
