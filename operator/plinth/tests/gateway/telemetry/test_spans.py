"""Spans, read by OpenTelemetry's own schema."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.semconv import attributes as stable
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import client_attributes, error_attributes, http_attributes

from plinth.gateway.telemetry.record import Attempt, RequestRecord
from plinth.gateway.telemetry.spans import encode_request, make_export
from plinth.tests.gateway.telemetry.records import TRACE, make_record

KNOWN = {
    value
    for module in (stable, gen_ai_attributes, client_attributes, error_attributes, http_attributes)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}


def exported(*records: RequestRecord) -> list[Any]:
    """As a collector reads them: OTLP's JSON has hexadecimal identifiers where protobuf's has base64."""
    requests = [encode_request(record, TRACE) for record in records]
    document = json.loads(make_export(requests, {"service.name": "plinth-gateway"}))
    for span in document["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for name in ("traceId", "spanId", "parentSpanId"):
            span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    request = json_format.ParseDict(document, ExportTraceServiceRequest())
    resource = request.resource_spans[0].resource.attributes
    assert [(item.key, item.value.string_value) for item in resource] == [("service.name", "plinth-gateway")]
    return list(request.resource_spans[0].scope_spans[0].spans)


def attributes(span: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


def test_a_request_is_a_servers_span_and_under_it_the_call_for_an_answer() -> None:
    server, call = exported(make_record())
    assert (server.name, server.kind) == ("POST /v1/chat/completions", server.SPAN_KIND_SERVER)
    assert (call.name, call.kind) == ("chat qwen", call.SPAN_KIND_CLIENT)
    assert server.trace_id.hex() == call.trace_id.hex() == TRACE.trace_id
    assert server.parent_span_id.hex() == TRACE.parent_id
    assert call.parent_span_id == server.span_id
    assert call.span_id.hex() == TRACE.call_id
    assert server.start_time_unix_nano == 1_700_000_000_250_000_000
    assert call.start_time_unix_nano == 1_700_000_000_750_000_000
    assert server.end_time_unix_nano == call.end_time_unix_nano == 1_700_000_002_250_000_000
    assert server.status.code == call.status.code == 0


def test_the_call_says_what_the_conventions_ask() -> None:
    _, call = exported(make_record())
    assert attributes(call) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "plinth",
        "gen_ai.request.model": "qwen",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "team-a/qwen",
        "gen_ai.response.time_to_first_chunk": 0.75,
        "gen_ai.usage.input_tokens": 400,
        "gen_ai.usage.output_tokens": 100,
    }


@pytest.mark.parametrize("status", [200, 503])
def test_every_name_is_of_the_conventions_or_says_that_it_is_ours(status: int) -> None:
    for span in exported(make_record(status=status)):
        assert {name for name in attributes(span) if not name.startswith("plinth.")} <= KNOWN


def test_all_replicas_tried_are_events_of_one_call() -> None:
    attempts = [Attempt("qwen-1", 0.1, "connection_lost"), Attempt("qwen-2", 0.4)]
    _, call = exported(make_record(attempts=attempts))
    assert call.start_time_unix_nano == 1_700_000_000_350_000_000
    assert [attributes(event) for event in call.events] == [
        {"plinth.replica": "qwen-1", "plinth.failure": "connection_lost"},
        {"plinth.replica": "qwen-2"},
    ]


def test_what_never_reached_a_replica_has_no_call() -> None:
    (server,) = exported(make_record(attempts=[], cache="hit"))
    assert attributes(server)["plinth.cache"] == "hit"


def test_a_fault_of_the_server_is_an_error_and_a_refusal_is_none() -> None:
    server, call = exported(make_record(status=503, error="replica_failed"))
    assert server.status.code == call.status.code == server.status.STATUS_CODE_ERROR
    assert attributes(server)["error.type"] == attributes(call)["error.type"] == "replica_failed"
    (server,) = exported(make_record(status=429, error="rate_limit_exceeded", attempts=[]))
    assert server.status.code == 0


def test_a_stream_that_broke_after_200_is_the_calls_error() -> None:
    server, call = exported(make_record(error="stream_broken"))
    assert server.status.code == 0
    assert call.status.code == call.status.STATUS_CODE_ERROR
    assert attributes(call)["error.type"] == "stream_broken"


def test_requests_go_together_in_one_export() -> None:
    assert len(exported(make_record(), make_record(attempts=[]), make_record())) == 5
    assert exported() == []
