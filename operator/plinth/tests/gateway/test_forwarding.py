"""Requests through a real gateway to a real (small) replica: what each side gets."""

# ruff: noqa: ARG001 - every behaviour takes the replica, the request and the writer, whatever it uses of them
from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path

import pytest

from plinth.domain.traffic import Availability
from plinth.tests.gateway.harness import (
    MODEL,
    SECRET,
    STREAMING,
    Seen,
    Upstream,
    answer,
    event,
    eventually,
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

pytestmark = pytest.mark.process


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
    assert all(0.05 < later - earlier < 0.2 for earlier, later in pairwise(times[:5]))
    assert got.body.startswith(event("t0") + event("t1"))
    assert got.body.endswith(b"data: [DONE]\n\n")


@scenario
async def test_pipelined_requests_are_answered_in_order_on_one_connection(tmp_path: Path) -> None:
    async def echo(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
        number = json.loads(seen.body)["n"]
        await asyncio.sleep(0.05 if number == 0 else 0)
        writer.write(whole(json.dumps({"n": number}).encode()))

    async with (
        replicas(echo) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
    ):
        connection = await rig.connect()
        sent = b"".join(request_bytes(body={"model": "tiny", "n": n}) for n in range(5))
        connection.send(sent + request_bytes("/health", method="GET") + request_bytes("/nowhere"))
        answers = [await connection.answer() for _ in range(7)]
        connection.close()
    assert [item.json().get("n") for item in answers[:5]] == [0, 1, 2, 3, 4]
    assert [item.status for item in answers[5:]] == [200, 404]
    assert upstream.connections <= 3  # one carries all requests; the sentinel's and a check's beside it


@scenario
async def test_many_pipelined_requests_beyond_the_pause_are_all_answered(tmp_path: Path) -> None:
    async with (
        replicas(None) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
    ):
        connection = await rig.connect()
        connection.send(request_bytes() * 300)
        statuses = [(await connection.answer()).status for _ in range(300)]
        connection.close()
    assert statuses == [200] * 300


@scenario
async def test_a_chunked_request_reaches_the_replica_whole(tmp_path: Path) -> None:
    body = request_bytes().partition(b"\r\n\r\n")[2]
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with (
        replicas(None) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
    ):
        connection = await rig.connect()
        connection.send(head)
        for index in range(0, len(body), 10):
            connection.send(framed(body[index : index + 10]))
            await asyncio.sleep(0.001)
        connection.send(b"0\r\n\r\n")
        got = await connection.answer()
        connection.close()
    assert got.status == 200
    assert upstream.seen[0].body == body
    assert upstream.seen[0].headers["content-length"] == str(len(body))


@scenario
async def test_100_continue_is_sent_before_the_body_and_not_for_one_too_large(tmp_path: Path) -> None:
    async with (
        replicas(None) as (upstream,),
        running_gateway(
            tmp_path, make_table(make_model(make_replica(upstream.port))), body_bytes=1000
        ) as rig,
    ):
        connection = await rig.connect()
        head, _, body = request_bytes(headers={"Expect": "100-continue"}).partition(b"\r\n\r\n")
        connection.send(head + b"\r\n\r\n")
        assert (await connection.answer(bodiless=True)).status == 100
        connection.send(body)
        assert (await connection.answer()).status == 200
        large = {"Expect": "100-continue", "Content-Length": "5000"}
        connection.send(request_bytes(body=b"x", headers=large)[:-1])
        assert (await connection.answer()).status == 413


@scenario
async def test_http_1_0_gets_an_unchunked_stream_that_the_connection_ends(tmp_path: Path) -> None:
    async with (
        replicas(stream(3)) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
    ):
        connection = await rig.connect()
        connection.send(request_bytes(body=STREAMING).replace(b"HTTP/1.1", b"HTTP/1.0"))
        got = await connection.answer()
    assert "transfer-encoding" not in got.headers
    assert got.headers["connection"] == "close"
    assert got.body.endswith(b"data: [DONE]\n\n")


@scenario
async def test_sixty_streams_at_once_arrive_whole(tmp_path: Path) -> None:
    async with (
        replicas(stream(40, every=0.005), stream(40, every=0.005)) as found,
        running_gateway(
            tmp_path, make_table(make_model(*[make_replica(u.port, concurrency=20) for u in found]))
        ) as rig,
    ):
        answers = await asyncio.gather(*[rig.ask(body=STREAMING) for _ in range(60)])
        in_flight = await rig.metric("plinth_gateway_in_flight_requests")
        held = await rig.metric("plinth_gateway_held_body_bytes")
    for got in answers:
        assert got.complete
        assert got.body.count(b"data: ") == 41
        assert got.body.endswith(b"data: [DONE]\n\n")
    assert {len(u.seen) for u in found} <= set(range(20, 41))
    assert in_flight == 0
    assert held == 0


@scenario
async def test_a_replicas_own_error_is_passed_on_as_it_is(tmp_path: Path) -> None:
    async with (
        replicas(answer({"error": {"code": 400, "message": "too long"}}, "400 Bad Request")) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
    ):
        got = await rig.ask()
    assert got.status == 400
    assert got.json()["error"]["message"] == "too long"


@scenario
async def test_idle_connections_to_a_replica_are_reused_and_then_let_go(tmp_path: Path) -> None:
    async with (
        replicas(None) as (upstream,),
        running_gateway(
            tmp_path, make_table(make_model(make_replica(upstream.port))), pool_idle_seconds=0.3
        ) as rig,
    ):
        connection = await rig.connect()
        for _ in range(5):
            await connection.ask()
        await asyncio.sleep(0.05)
        opened = upstream.connections
        assert len(upstream.writers) == 2
        await asyncio.sleep(1.0)
        assert len(upstream.writers) == 1  # the sentinel's
        connection.close()
    assert opened == 2


@scenario
async def test_a_connection_that_the_replica_closed_meanwhile_costs_no_attempt(tmp_path: Path) -> None:
    async def answer_then_close(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
        if len(upstream.seen) == 2:
            writer.close()  # as if the keep-alive time had run out as the request came
        else:
            await answer()(upstream, seen, writer)

    async with (
        replicas(answer_then_close) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port))), attempts=1) as rig,
    ):
        assert (await rig.ask()).status == 200
        assert (await rig.ask()).status == 200
        retries = await rig.metric("plinth_gateway_retries_total")
    assert len(upstream.seen) == 3
    assert retries == 1


@scenario
async def test_the_models_are_listed_and_described(tmp_path: Path) -> None:
    table = make_table(make_model(), make_model(model="team/emb", names=("emb", "team/emb"), task="Embed"))
    async with running_gateway(tmp_path, table) as rig:
        listed = (await rig.ask("/v1/models", method="GET")).json()
        plain = await rig.ask("/v1/models/tiny", method="GET")
        quoted = await rig.ask("/v1/models/team%2Ftiny", method="GET")
        missing = await rig.ask("/v1/models/none", method="GET")
        only_head = await rig.connect()
        only_head.send(request_bytes("/v1/models", method="HEAD"))
        head = await only_head.answer(bodiless=True)
        assert (await only_head.ask("/health", method="GET")).status == 200
    model = {"id": "tiny", "object": "model", "created": 1700000000, "owned_by": "team"}
    assert listed == {"object": "list", "data": [{**model, "id": "emb"}, model]}
    assert plain.json() == model
    assert quoted.json() == {**model, "id": "team/tiny"}
    assert (missing.status, missing.code) == (404, "model_not_found")
    assert int(head.headers["content-length"]) > 50


@scenario
async def test_wrong_requests_get_openais_error_shape_and_the_connection_lives_on(tmp_path: Path) -> None:
    table = make_table(
        make_model(make_replica(1)), make_model(model="team/emb", names=("emb",), task="Embed")
    )
    async with running_gateway(tmp_path, table) as rig:
        connection = await rig.connect()
        for path, body, method, status, code in (
            ("/v2/x", None, "POST", 404, "not_found"),
            ("/v1/completions", b"", "GET", 405, "method_not_allowed"),
            ("/v1/completions", b"{", "POST", 400, "invalid_json"),
            ("/v1/completions", {"model": "none"}, "POST", 404, "model_not_found"),
            ("/v1/completions", {"model": "emb"}, "POST", 400, "wrong_endpoint_for_model"),
            ("/v1/embeddings", {"model": "tiny"}, "POST", 400, "wrong_endpoint_for_model"),
        ):
            got = await connection.ask(path, body, method=method)
            assert (got.status, got.code) == (status, code)
            assert set(got.json()["error"]) == {"message", "type", "param", "code"}
            assert got.headers["x-request-id"]
        listed = await connection.ask("/v1/completions", {"model": "none"})
        connection.close()
    assert "emb, tiny" in listed.json()["error"]["message"]


@scenario
async def test_before_the_first_table_clients_are_asked_to_come_back(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as rig:
        got = await rig.ask()
    assert (got.status, got.code) == (503, "no_route_table")
    assert got.headers["retry-after"] == "1"
    assert got.headers["x-should-retry"] == "true"


@scenario
async def test_the_metrics_are_fed(tmp_path: Path) -> None:
    async with (
        replicas(stream(4, every=0.01)) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
    ):
        for _ in range(3):
            await rig.ask(body=STREAMING)
        text = (await rig.ask("/metrics", method="GET")).body.decode()
    label = f'model="{MODEL}"'
    for line in (
        f'plinth_gateway_requests_total{{code="200",endpoint="/v1/chat/completions",{label},policy=""}} 3.0',
        f'plinth_gateway_output_tokens_total{{{label},policy=""}} 12.0',
        f'plinth_gateway_prompt_tokens_total{{{label},policy=""}} 21.0',
        f'plinth_gateway_time_to_first_token_seconds_bucket{{band="default",le="0.25",{label}}} 3.0',
        f'plinth_gateway_time_per_output_token_seconds_bucket{{le="0.1",{label}}} 3.0',
        f'plinth_gateway_request_duration_seconds_bucket{{le="+Inf",{label}}} 3.0',
        f'plinth_gateway_overhead_seconds_bucket{{le="0.05",{label}}} 3.0',
        f'plinth_gateway_replicas{{{label},state="Ready"}} 1.0',
        "plinth_gateway_route_table_version 1.0",
    ):
        assert line in text
    assert "process_resident_memory_bytes" in text


@scenario
async def test_thousands_of_pipelined_requests_that_are_refused_at_once_are_all_answered(
    tmp_path: Path,
) -> None:
    refused = make_model(availability=Availability.REFUSED, message="no GPU")
    async with running_gateway(tmp_path, make_table(refused)) as rig:
        connection = await rig.connect()
        connection.send(request_bytes() * 2000)
        statuses = {(await connection.answer()).status for _ in range(2000)}
    assert statuses == {503}


@scenario
async def test_idle_connections_are_let_go_after_the_last_client_has_left(tmp_path: Path) -> None:
    async with (
        replicas(None) as (upstream,),
        running_gateway(
            tmp_path, make_table(make_model(make_replica(upstream.port))), pool_idle_seconds=0.3
        ) as rig,
    ):
        await rig.ask()
        await eventually(lambda: len(upstream.writers) == 1, 3)  # the sentinel's
