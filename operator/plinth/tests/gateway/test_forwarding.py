"""Requests through a real gateway to a real (small) replica: what each side gets."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from plinth.tests.gateway.harness import (
    SECRET,
    STREAMING,
    Seen,
    Upstream,
    answer,
    close,
    event,
    framed,
    make_model,
    make_replica,
    make_table,
    replicas,
    request_bytes,
    running_gateway,
    scenario,
    stream,
    whole,
)


@scenario
async def test_a_replica_gets_the_original_bytes_with_the_secret_and_without_hop_by_hop_headers(
    tmp_path: Path,
) -> None:
    body = b'{ "model" : "tiny",\n "messages": [], "unknown": {"kept": 1.50} }'
    async with (
        replicas(None) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
    ):
        got = await rig.ask(
            "/v1/chat/completions?x=1",
            body,
            headers={
                "Authorization": "Bearer sk-client",
                "Connection": "keep-alive, X-Private",
                "X-Private": "1",
                "TE": "trailers",
                "Accept-Encoding": "gzip",
                "X-Custom": "stays",
                "X-Request-Id": "mine-1",
            },
        )
        seen = upstream.seen[0]
    assert got.status == 200
    assert got.json()["usage"]["completion_tokens"] == 5
    assert got.headers["x-request-id"] == "mine-1"
    assert seen.body == body
    assert seen.line == "POST /team.tiny.abc.0/v1/chat/completions?x=1 HTTP/1.1"
    assert seen.headers == {
        "host": f"127.0.0.1:{upstream.port}",
        "authorization": f"Bearer {SECRET}",
        "x-custom": "stays",
        "content-length": str(len(body)),
        "x-request-id": "mine-1",
    }


@scenario
async def test_every_event_is_passed_on_as_it_comes(tmp_path: Path) -> None:
    async with (
        replicas(stream(5, every=0.1)) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
    ):
        began = asyncio.get_running_loop().time()
        got = await rig.ask(body=STREAMING)
    assert got.headers["content-type"] == "text/event-stream"
    times = [at - began for at, _ in got.pieces]
    assert times[0] < 0.08
    assert all(0.05 < later - earlier < 0.2 for earlier, later in zip(times[:4], times[1:5], strict=True))
    assert got.body.startswith(event("t0") + event("t1"))
    assert got.body.endswith(b"data: [DONE]\n\n")
