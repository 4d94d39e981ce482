"""Everything the gateway says on its own account, in OpenAI's error shape. Pure.

A Refusal is a value: the status, the words and what the client should do next. OpenAI's clients obey
`Retry-After` and `x-should-retry`, so each refusal states both where it matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

INVALID: Final = "invalid_request_error"
OVERLOADED: Final = "overloaded_error"
UPSTREAM: Final = "upstream_error"
_UNAUTHORIZED: Final = 401


@dataclass(frozen=True)
class Refusal:
    """One answer other than the engine's."""

    status: int
    code: str
    message: str
    kind: str = INVALID
    param: str | None = None
    retry_after: int | None = None
    """Seconds; None says nothing about when."""
    should_retry: bool | None = None
    """What `x-should-retry` says; None leaves it to the client's own rule (408, 409, 429, 5xx)."""
    closes: bool = False
    """The connection cannot be used again: where the next request begins is not known."""
    allow: str | None = None
    """Methods, for a 405."""


def error_body(refusal: Refusal) -> bytes:
    """The JSON document of an answer."""
    return msgspec.json.encode(
        {
            "error": {
                "message": refusal.message,
                "type": refusal.kind,
                "param": refusal.param,
                "code": refusal.code,
            }
        }
    )


def error_event(refusal: Refusal) -> bytes:
    """The server-sent event that ends a stream which can no longer be completed."""
    return b"data: " + error_body(refusal) + b"\n\n"


def error_headers(refusal: Refusal) -> list[tuple[bytes, bytes]]:
    """Headers that tell the client what to do next."""
    headers = [(b"content-type", b"application/json")]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", b"%d" % refusal.retry_after))
    if refusal.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if refusal.should_retry else b"false"))
    if refusal.status == _UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.allow is not None:
        headers.append((b"allow", refusal.allow.encode()))
    return headers


def bad_request(message: str, *, code: str = "bad_request", param: str | None = None) -> Refusal:
    """A request that is well framed but wrong; the connection lives on."""
    return Refusal(400, code, message, param=param, should_retry=False)


def malformed(message: str, *, status: int = 400, code: str = "malformed_request") -> Refusal:
    """Bytes that are not a request that this gateway reads; nothing after them can be trusted."""
    return Refusal(status, code, message, should_retry=False, closes=True)


def body_too_large(limit: int) -> Refusal:
    """A body beyond the limit of one request; the rest of it is not read."""
    return Refusal(
        413, "request_too_large", f"the request body exceeds {limit} bytes", should_retry=False, closes=True
    )


def bodies_exhausted() -> Refusal:
    """All connections together hold as many body bytes as they may."""
    return Refusal(
        503,
        "gateway_overloaded",
        "the gateway holds as many request bytes as it may",
        OVERLOADED,
        retry_after=1,
        should_retry=True,
        closes=True,
    )


def too_slow(what: str, seconds: float) -> Refusal:
    """The client took too long to send its request."""
    return Refusal(408, "request_timeout", f"{what} did not arrive within {seconds:g} s", closes=True)


def no_table_yet() -> Refusal:
    """Nothing has told the gateway what to serve."""
    return Refusal(
        503,
        "no_route_table",
        "the gateway has just started and does not know its models yet",
        OVERLOADED,
        retry_after=1,
        should_retry=True,
    )


def unavailable(model: str, message: str) -> Refusal:
    """Waiting would not help: the model's route refuses."""
    text = f"the model {model!r} cannot be served now: {message}"
    return Refusal(503, "model_unavailable", text, OVERLOADED, retry_after=30, should_retry=False)


def waited_in_vain(model: str, seconds: float, message: str) -> Refusal:
    """Held as long as a request may be, and no replica had room."""
    why = f": {message}" if message else ""
    text = f"no replica of {model!r} had room within {seconds:g} s{why}"
    return Refusal(503, "no_replica_ready", text, OVERLOADED, retry_after=5, should_retry=True)


def upstream_failed(model: str, attempts: int, detail: str) -> Refusal:
    """No replica gave a first byte, or the one that did broke."""
    text = f"no replica of {model!r} answered ({attempts} tried): {detail}"
    return Refusal(503, "replica_failed", text, UPSTREAM, retry_after=1, should_retry=True)


def upstream_invalid(detail: str) -> Refusal:
    """The replica answered something that cannot be passed on safely."""
    return Refusal(502, "invalid_replica_answer", detail, UPSTREAM, should_retry=False)


def upstream_silent(seconds: float) -> Refusal:
    """No first byte in time. Asking again would add load to what is slow already."""
    text = f"the replica sent nothing within {seconds:g} s"
    return Refusal(504, "replica_timeout", text, UPSTREAM, should_retry=False)


def stream_broken(detail: str) -> Refusal:
    """The words of the event that ends a broken stream; its status is never sent."""
    return Refusal(502, "stream_broken", f"the stream ended before it was complete: {detail}", UPSTREAM)
