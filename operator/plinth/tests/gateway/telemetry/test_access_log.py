"""Lines of the access log."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from plinth.gateway.telemetry.access_log import access_line
from plinth.tests.gateway.telemetry.records import TRACE, make_record


def line(**overrides: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(access_line(make_record(**overrides)))
    return found


def test_a_line_says_who_asked_what_and_how_it_went() -> None:
    assert line(trace=TRACE, cache="fwd=miss") == {
        "time": "2023-11-14T22:13:20.250000Z",
        "request_id": "req-1",
        "client": "10.0.0.7",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "duration_ms": 2000.0,
        "tenant": "team-a",
        "key_id": "pk_abcdefghi",
        "policy": "team-a/gold",
        "band": "default",
        "model": "team-a/qwen",
        "asked_model": "qwen",
        "stream": True,
        "cache": "fwd=miss",
        "replica": "qwen-1",
        "attempts": 1,
        "queued_ms": 500.0,
        "overhead_ms": 0.1,
        "first_token_ms": 750.0,
        "prompt_tokens": 400,
        "output_tokens": 100,
        "trace_id": TRACE.trace_id,
    }


def test_what_does_not_apply_is_left_out() -> None:
    found = line(status=404, error="model_not_found", model="", attempts=[], first_token=None, queued=0.0)
    assert found["error"] == "model_not_found"
    assert not found.keys() & {
        "model",
        "replica",
        "attempts",
        "queued_ms",
        "first_token_ms",
        "trace_id",
        "cache",
    }


@given(st.text(max_size=30), st.text(max_size=30))
def test_nothing_that_a_client_writes_can_begin_another_line(asked: str, path: str) -> None:
    written = access_line(make_record(asked_model=asked, path=path))
    assert written.endswith(b"\n")
    assert written.count(b"\n") == 1
    assert b"\r" not in written
    assert json.loads(written)["path"] == path


def test_what_a_client_writes_is_cut() -> None:
    assert len(line(asked_model="m" * 5000)["asked_model"]) == 200
    assert len(line(path="/" + "p" * 5000)["path"]) == 200
