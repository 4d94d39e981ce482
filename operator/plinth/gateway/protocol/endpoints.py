"""The paths of the API: what each takes and which task it asks of a model. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from plinth.gateway.protocol.errors import Refusal


class Answer(Enum):
    """Who answers."""

    REPLICA = "replica"
    MODELS = "models"
    HEALTH = "health"
    READY = "ready"
    LIVE = "live"
    METRICS = "metrics"


@dataclass(frozen=True)
class Endpoint:
    """One path."""

    path: str
    methods: tuple[bytes, ...]
    answer: Answer
    task: str = ""


_ENDPOINTS = {
    endpoint.path.encode(): endpoint
    for endpoint in (
        Endpoint("/v1/chat/completions", (b"POST",), Answer.REPLICA, "Generate"),
        Endpoint("/v1/completions", (b"POST",), Answer.REPLICA, "Generate"),
        Endpoint("/v1/embeddings", (b"POST",), Answer.REPLICA, "Embed"),
        Endpoint("/v1/rerank", (b"POST",), Answer.REPLICA, "Rerank"),
        Endpoint("/v1/models", (b"GET", b"HEAD"), Answer.MODELS),
        Endpoint("/health", (b"GET", b"HEAD"), Answer.HEALTH),
        Endpoint("/readyz", (b"GET", b"HEAD"), Answer.READY),
        Endpoint("/livez", (b"GET", b"HEAD"), Answer.LIVE),
        Endpoint("/metrics", (b"GET", b"HEAD"), Answer.METRICS),
    )
}
_EXACT = {(method, path): endpoint for path, endpoint in _ENDPOINTS.items() for method in endpoint.methods}
MODEL_PREFIX = b"/v1/models/"
PATHS = tuple(path.decode() for path in _ENDPOINTS)


def match(method: bytes, target: bytes) -> Endpoint | Refusal:
    """The endpoint that a request line names, or why there is none."""
    found = _EXACT.get((method, target))
    if found is not None:
        return found
    path = target.partition(b"?")[0]
    if path.startswith(MODEL_PREFIX) and len(path) > len(MODEL_PREFIX):
        path = b"/v1/models"
    endpoint = _ENDPOINTS.get(path)
    if endpoint is None:
        shown = path[:200].decode("latin-1")
        text = f"there is no {shown!r} here; there are {', '.join(PATHS)}"
        return Refusal(404, "not_found", text, should_retry=False)
    if method not in endpoint.methods:
        allowed = ", ".join(item.decode() for item in endpoint.methods)
        text = f"{endpoint.path} takes {allowed}, not {method.decode('latin-1')}"
        return Refusal(405, "method_not_allowed", text, should_retry=False, allow=allowed)
    return endpoint


def paths_for(task: str) -> str:
    """The paths that a model of this task answers on, for a message."""
    return " and ".join(item.path for item in _ENDPOINTS.values() if item.task == task)
