"""One line of JSON for each request: the access log. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import msgspec

from plinth.gateway.telemetry.record import RequestRecord

_MOST_CHARACTERS: Final = 200
"""Of what a client wrote itself."""
_ENCODER: Final = msgspec.json.Encoder()


class _Line(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """What does not apply to a request is left out. Times end in their unit."""

    time: datetime
    request_id: str
    client: str
    method: str
    path: str
    status: int
    error: str = ""
    duration_ms: float
    tenant: str = ""
    key_id: str = ""
    policy: str = ""
    band: str = ""
    model: str = ""
    asked_model: str = ""
    stream: bool = False
    cache: str = ""
    replica: str = ""
    attempts: int = 0
    queued_ms: float | None = None
    overhead_ms: float | None = None
    first_token_ms: float | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    trace_id: str = ""


def access_line(record: RequestRecord) -> bytes:
    """The line with its end. Whatever a client wrote stays on its line: JSON escapes what would end it."""
    attempts, trace, first_token = record.attempts, record.trace, record.first_token
    line = _Line(
        time=datetime.fromtimestamp(round(record.began_at, 3), UTC),
        request_id=record.request_id,
        client=record.client,
        method=record.method,
        path=record.path[:_MOST_CHARACTERS],
        status=record.status,
        error=record.error,
        duration_ms=_milliseconds(record.duration),
        tenant=record.tenant,
        key_id=record.key_id,
        policy=record.policy,
        band=record.band,
        model=record.model,
        asked_model=record.asked_model[:_MOST_CHARACTERS],
        stream=record.stream,
        cache=record.cache,
        replica=attempts[-1].slot if attempts else "",
        attempts=len(attempts),
        queued_ms=_milliseconds(record.queued) if attempts else None,
        overhead_ms=_milliseconds(record.overhead) if attempts else None,
        first_token_ms=_milliseconds(first_token) if first_token is not None else None,
        prompt_tokens=record.prompt_tokens,
        output_tokens=record.output_tokens,
        trace_id=trace.trace_id if trace is not None else "",
    )
    return _ENCODER.encode(line) + b"\n"


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
