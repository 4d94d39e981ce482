"""Finished requests as OpenTelemetry's wire format: OTLP/HTTP in JSON. Pure.

A request is two spans: the server's, by the HTTP conventions, and under it the call for an answer, by the GenAI
conventions (`chat MODEL`), which covers all replicas tried, as these conventions ask. Attribute names that are
OpenTelemetry's are checked against its own package by a test; those with `plinth.` are ours. No prompt and no
answer is ever in a span.

OTLP's JSON is protobuf's, save that identifiers are hexadecimal and enums are numbers; 64-bit integers are strings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from plinth.gateway.telemetry.record import RequestRecord
from plinth.gateway.telemetry.tracing import Trace

_SERVER, _CLIENT = 2, 3  # SpanKind
_ERROR: Final = 2  # Status.StatusCode
_SERVER_ERRORS: Final = 500
_CLIENT_ERRORS: Final = 400
_OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
    "/v1/score": "score",
}
"""`gen_ai.operation.name`: the first three values are of the conventions."""
_ENCODER: Final = msgspec.json.Encoder()

Json = dict[str, object]


def encode_request(record: RequestRecord, trace: Trace) -> bytes:
    """The spans of one request, without brackets around them."""
    return _ENCODER.encode(_spans(record, trace))[1:-1]


def make_export(requests: Iterable[bytes], resource: dict[str, str]) -> bytes:
    """An ExportTraceServiceRequest of requests encoded before; `resource` says which process this is."""
    attributes = _ENCODER.encode(_attributes({**resource}))
    return b"".join(
        (
            b'{"resourceSpans":[{"resource":{"attributes":',
            attributes,
            b'},"scopeSpans":[{"scope":{"name":"plinth.gateway"},"spans":[',
            b",".join(requests),
            b"]}]}]}",
        )
    )


def _spans(record: RequestRecord, trace: Trace) -> list[Json]:
    end = record.began_at + record.duration
    failed = record.status >= _SERVER_ERRORS or bool(record.error)
    server = _span(
        trace,
        (trace.span_id, trace.parent_id),
        f"{record.method} {record.path}",
        kind=_SERVER,
        times=(record.began_at, end),
        attributes=_server_attributes(record),
        failed=record.status >= _SERVER_ERRORS,
    )
    operation = _OPERATIONS.get(record.path)
    if operation is None or not record.attempts:
        return [server]
    call = _span(
        trace,
        (trace.call_id, trace.span_id),
        f"{operation} {record.asked_model}",
        kind=_CLIENT,
        times=(record.began_at + record.attempts[0].after_seconds, end),
        attributes=_call_attributes(record, operation),
        failed=failed,
    )
    call["events"] = [
        {
            "timeUnixNano": _nanoseconds(record.began_at + attempt.after_seconds),
            "name": "plinth.attempt",
            "attributes": _attributes({"plinth.replica": attempt.slot, "plinth.failure": attempt.failure}),
        }
        for attempt in record.attempts
    ]
    return [server, call]


def _span(
    trace: Trace,
    identity: tuple[str, str],
    name: str,
    *,
    kind: int,
    times: tuple[float, float],
    attributes: Json,
    failed: bool,
) -> Json:
    span_id, parent_id = identity
    return {
        "traceId": trace.trace_id,
        "spanId": span_id,
        "parentSpanId": parent_id,
        "name": name,
        "kind": kind,
        "startTimeUnixNano": _nanoseconds(times[0]),
        "endTimeUnixNano": _nanoseconds(times[1]),
        "attributes": _attributes(attributes),
        "status": {"code": _ERROR} if failed else {},
    }


def _server_attributes(record: RequestRecord) -> Json:
    return {
        "http.request.method": record.method,
        "http.route": record.path,
        "http.response.status_code": record.status,
        "client.address": record.client,
        "error.type": _error_type(record) if record.status >= _SERVER_ERRORS else "",
        "plinth.request_id": record.request_id,
        "plinth.tenant": record.tenant,
        "plinth.key_id": record.key_id,
        "plinth.policy": record.policy,
        "plinth.band": record.band,
        "plinth.model": record.model,
        "plinth.cache": record.cache,
        "plinth.queued_seconds": record.queued,
        "plinth.overhead_seconds": record.overhead,
    }


def _call_attributes(record: RequestRecord, operation: str) -> Json:
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "plinth",
        "gen_ai.request.model": record.asked_model,
        "gen_ai.request.stream": record.stream,
        "gen_ai.response.model": record.model,
        "gen_ai.response.time_to_first_chunk": record.first_token,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.output_tokens,
        "error.type": _error_type(record) if record.error or record.status >= _CLIENT_ERRORS else "",
    }


def _error_type(record: RequestRecord) -> str:
    return record.error or str(record.status)


def _attributes(values: Json) -> list[Json]:
    """Those that say something."""
    return [
        {"key": key, "value": _value(value)}
        for key, value in values.items()
        if value is not None and value != ""
    ]


def _value(value: object) -> Json:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}


def _nanoseconds(seconds: float) -> str:
    """To the microsecond: a double does not hold today's Unix time better."""
    return f"{seconds * 1e6:.0f}000"
