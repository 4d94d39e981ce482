"""Finished requests for tests."""

from __future__ import annotations

from typing import Any

from plinth.gateway.telemetry.record import Attempt, RequestRecord
from plinth.gateway.telemetry.tracing import Trace

TRACE = Trace(
    trace_id="0af7651916cd43dd8448eb211c80319c",
    parent_id="b7ad6b7169203331",
    span_id="00f067aa0ba902b7",
    call_id="53995c3f42cd8ad8",
    sampled=True,
)


def make_record(**overrides: Any) -> RequestRecord:
    fields: dict[str, Any] = {
        "request_id": "req-1",
        "began_at": 1_700_000_000.25,
        "duration": 2.0,
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "client": "10.0.0.7",
        "tenant": "team-a",
        "key_id": "pk_abcdefghi",
        "policy": "team-a/gold",
        "band": "default",
        "model": "team-a/qwen",
        "asked_model": "qwen",
        "stream": True,
        "queued": 0.5,
        "overhead": 0.0001,
        "first_token": 0.75,
        "prompt_tokens": 400,
        "output_tokens": 100,
        "attempts": [Attempt("qwen-1", 0.5)],
    }
    return RequestRecord(**fields | overrides)
