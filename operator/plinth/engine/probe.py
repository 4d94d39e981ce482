"""The proof that a loaded engine works: one real request through the app that clients' requests will take."""

from __future__ import annotations

import asyncio

import msgspec

from plinth.api.v1alpha1.modeldeployment import Task
from plinth.domain.fleet import EngineSpec
from plinth.engine.seam import ASGIApp, EngineError, Message

_DEADLINE_SECONDS = 600
"""The first token may wait for compilation; an engine that takes longer is taken for hung."""
_SHOWN = 300


class Answered(msgspec.Struct):
    """As much of an answer as proves that the model computed something, whatever the task."""

    choices: list[object] = []
    data: list[object] = []
    results: list[object] = []


def _request(spec: EngineSpec) -> tuple[str, dict[str, object]]:
    model = spec.served_names[0] if spec.served_names else ""
    requests: dict[str, tuple[str, dict[str, object]]] = {
        Task.GENERATE: ("/v1/completions", {"model": model, "prompt": "Hello", "max_tokens": 1}),
        Task.EMBED: ("/v1/embeddings", {"model": model, "input": "Hello"}),
        Task.RERANK: ("/v1/rerank", {"model": model, "query": "Hello", "documents": ["Hello", "Goodbye"]}),
    }
    if spec.task not in requests:
        raise EngineError(f"task {spec.task} is unknown; it must be one of {', '.join(requests)}")
    return requests[spec.task]


async def probe(app: ASGIApp, spec: EngineSpec) -> None:
    """Return once the model has answered.

    Raises:
        EngineError: it answered with an error, with nothing, or not in time.
    """
    path, body = _request(spec)
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            status, answer = await _post(app, path, msgspec.json.encode(body))
    except TimeoutError:
        raise EngineError(f"no answer to a one-token request within {_DEADLINE_SECONDS} s") from None
    shown = answer[:_SHOWN].decode(errors="replace")
    if status != 200:  # noqa: PLR2004 - HTTP's OK
        raise EngineError(f"the probe of {path} was answered with {status}: {shown}")
    try:
        answered = msgspec.json.decode(answer, type=Answered)
    except msgspec.DecodeError as error:
        raise EngineError(
            f"the probe of {path} was answered with something else ({error}): {shown}"
        ) from error
    if not (answered.choices or answered.data or answered.results):
        raise EngineError(f"the probe of {path} was answered without a result: {shown}")


async def _post(app: ASGIApp, path: str, body: bytes) -> tuple[int, bytes]:
    """One request in memory, as a server would hand it to the app."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"probe"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
    }
    requests: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    status, chunks, done = 0, [], asyncio.Event()

    async def receive() -> Message:
        if requests:
            return requests.pop()
        await done.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            chunks.append(message.get("body", b""))
            if not message.get("more_body", False):
                done.set()

    await app(scope, receive, send)
    return status, b"".join(chunks)
