"""What a request line asks for: looked up in the one table of operations. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from plinth.gateway.protocol.errors import Refusal
from plinth.gateway.surface.operations import OPERATIONS, Operation


class Answer(Enum):
    """Who answers: a replica, or the gateway itself by the operation of this name."""

    REPLICA = "replica"
    MODELS = "listModels"
    HEALTH = "health"
    READY = "ready"
    LIVE = "live"
    METRICS = "metrics"
    DOCUMENT = "document"
    PAGE = "page"


@dataclass(frozen=True)
class Endpoint:
    """One path."""

    path: str
    methods: tuple[bytes, ...]
    answer: Answer
    task: str = ""
    needs_key: bool = True


MODEL_PREFIX: Final = b"/v1/models/"
"""One model of the list; what follows is its name, slashes in it and all."""


def _endpoint(operation: Operation) -> Endpoint:
    return Endpoint(
        path=operation.path,
        methods=(b"GET", b"HEAD") if operation.method == "get" else (operation.method.upper().encode(),),
        answer=Answer.REPLICA if operation.task else Answer(operation.name),
        task=operation.task,
        needs_key=operation.needs_key,
    )


_ENDPOINTS: Final = {each.path.encode(): _endpoint(each) for each in OPERATIONS if "{" not in each.path}
_EXACT: Final = {
    (method, path): endpoint for path, endpoint in _ENDPOINTS.items() for method in endpoint.methods
}
PATHS: Final = tuple(path.decode() for path in _ENDPOINTS)


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
    *others, last = (item.path for item in _ENDPOINTS.values() if item.task == task)
    return f"{', '.join(others)} and {last}" if others else last
