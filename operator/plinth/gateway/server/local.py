"""Answers that need no replica: models, health, metrics, the API's description of itself."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote

import msgspec

from plinth.gateway.access.callers import Caller
from plinth.gateway.protocol.endpoints import MODEL_PREFIX, Answer, Endpoint
from plinth.gateway.protocol.errors import Refusal, no_table_yet
from plinth.gateway.routing.names import model_not_found
from plinth.gateway.server.core import Core
from plinth.gateway.server.model import Model
from plinth.gateway.server.surface_pages import surface_answers

_JSON: Final = [(b"content-type", b"application/json")]
_TEXT: Final = [(b"content-type", b"text/plain; charset=utf-8")]
METRICS: Final = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]

Local = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers, body."""
LIVE: Local = (200, _TEXT, b"ok\n")


def answer_locally(core: Core, endpoint: Endpoint, target: bytes, caller: Caller | None) -> Local | Refusal:
    """The gateway's own answer; without a caller only to what anybody may ask."""
    match endpoint.answer:
        case Answer.HEALTH:
            return _health(core)
        case Answer.READY:
            return readiness(draining=core.draining, has_tables=core.has_tables())
        case Answer.LIVE:
            return LIVE
        case Answer.METRICS:
            return 200, METRICS, core.metrics.text()
    found = surface_answers(endpoint.path, _tasks(core, caller))
    if found is not None or caller is None:
        return found or no_table_yet()
    return _models(core, target, caller)


def _tasks(core: Core, caller: Caller | None) -> dict[str, str]:
    """What each model that the caller may see is for, by the name it is listed under."""
    if caller is None:
        return {}
    listed = (core.fleet.find(name, caller.key.tenant) for name in core.names_for(caller))
    return {model.route.names[0]: model.route.task for model in listed if model is not None}


def _health(core: Core) -> Local:
    fleet = core.fleet
    body = {
        "status": "draining" if core.draining else "ok",
        "models": len(fleet.models),
        "table_version": fleet.version,
        "gateway": core.identity,
    }
    return 503 if core.draining else 200, _JSON, msgspec.json.encode(body)


def readiness(*, draining: bool, has_tables: bool) -> Local:
    """Whether new connections should come here: not before there are tables, nor while draining."""
    if draining:
        return 503, _TEXT, b"draining\n"
    if not has_tables:
        return 503, _TEXT, b"no route table or no access table yet\n"
    return LIVE


def _models(core: Core, target: bytes, caller: Caller) -> Local | Refusal:
    fleet, names = core.fleet, core.names_for(caller)
    path = target.partition(b"?")[0]
    if not path.startswith(MODEL_PREFIX) or len(path) == len(MODEL_PREFIX):
        found = ((name, fleet.find(name, caller.key.tenant)) for name in names)
        listed = [_describe(model, name) for name, model in found if model is not None]
        return 200, _JSON, msgspec.json.encode({"object": "list", "data": listed})
    name = unquote(path[len(MODEL_PREFIX) :].decode("latin-1"))
    model = fleet.find(name, caller.key.tenant)
    if model is None or caller.terms(model.name) is None:
        return no_table_yet() if fleet.version == 0 else model_not_found(name, names)
    return 200, _JSON, msgspec.json.encode(_describe(model, name))


def _describe(model: Model, name: str) -> dict[str, Any]:
    route = model.route
    return {
        "id": name,
        "object": "model",
        "created": route.created,
        "owned_by": route.model.partition("/")[0],
    }
