"""What the gateway tells of requests: identifiers, the access log, traces, metrics. Never a secret."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from plinth.domain.access import HOUR
from plinth.gateway.options import Telling
from plinth.gateway.server import trace_export
from plinth.tests.gateway.harness import (
    MODEL,
    SECRET,
    STREAMING,
    Connection,
    Controller,
    eventually,
    make_table,
    replicas,
    scenario,
    start_gateway_process,
    stream,
)
from plinth.tests.gateway.limits.builders import make_limit
from plinth.tests.gateway.telemetry.test_trace_export import collecting
from plinth.tests.gateway.wire.rig import (
    TEAM_KEY,
    bearer,
    make_access,
    make_key,
    make_policy,
    model_at,
    serving,
)

pytestmark = pytest.mark.process

POLICY = make_policy(make_limit("requests", 3, HOUR), priority="interactive")
STREAMED = STREAMING | {"messages": [{"role": "user", "content": "a secret of the client"}]}


# --- identifiers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-1", True), ("", False), ("x" * 200, False), ("a b<script>", False)]
)
def test_a_request_has_one_identifier_from_end_to_end(tmp_path: Path, given: str, *, kept: bool) -> None:
    @scenario
    async def run() -> None:
        async with replicas(None) as (upstream,), serving(tmp_path, model_at(upstream.port)) as rig:
            headers = {"X-Request-Id": given} if given else {}
            answers = [await rig.ask(headers=headers) for _ in range(2)]
            answers.append(await rig.ask(headers=headers, body={"model": "none"}))
            ids = [got.headers["x-request-id"] for got in answers]
            assert [seen.headers["x-request-id"] for seen in upstream.seen] == ids[:2]
            assert (ids == [given] * 3) == kept
            assert (len(set(ids)) == 1) == kept
            for found in ids:
                assert re.fullmatch(r"[\w.-]{1,128}", found)

    run()


# --- the access log ----------------------------------------------------------------------------------------------


@scenario
async def test_each_request_is_a_line_of_the_access_log_and_no_line_holds_a_secret(tmp_path: Path) -> None:
    async with replicas(stream(3)) as (upstream,):
        child = await start_gateway_process(tmp_path, "--access-log")
        controller = await Controller.connect(tmp_path / "g.sock", make_access(POLICY))
        await controller.apply(make_table(model_at(upstream.port)))
        host, _, port = json.loads(child.announced)["listening"].rpartition(":")
        client = Connection(*await asyncio.open_connection(host, port))
        asked: list[tuple[dict[str, Any], dict[str, str]]] = [
            (STREAMED, bearer()),
            (STREAMED | {"model": "none"}, bearer()),
            (STREAMED, bearer("sk-plinth-wrong")),
            (STREAMED, {"x-api-key": TEAM_KEY}),
            (STREAMED, bearer()),
            (STREAMED, bearer()),
        ]
        statuses = []
        for number, (body, headers) in enumerate(asked):
            got = await client.ask(body=body, headers=headers | {"X-Request-Id": f"r-{number}"})
            statuses.append(got.status)
        assert statuses == [200, 404, 401, 200, 200, 429]
        assert child.process.stdout is not None
        raw = [await asyncio.wait_for(child.process.stdout.readline(), 2) for _ in asked]
        lines = [json.loads(line) for line in raw]
        assert [(line["request_id"], line["status"]) for line in lines] == [
            (f"r-{number}", status) for number, status in enumerate(statuses)
        ]
        first = lines[0]
        told = {
            "method": "POST",
            "path": "/v1/chat/completions",
            "client": "127.0.0.1",
            "tenant": "team",
            "key_id": make_key().id,
            "policy": POLICY.name,
            "band": "interactive",
            "model": MODEL,
            "asked_model": "tiny",
            "stream": True,
            "replica": "a.0",
            "attempts": 1,
            "prompt_tokens": 7,
            "output_tokens": 3,
        }
        assert {name: first[name] for name in told} == told
        assert 0 < first["first_token_ms"] <= first["duration_ms"] < 5000
        assert [line.get("error", "") for line in lines] == [
            "",
            "model_not_found",
            "invalid_api_key",
            "",
            "",
            "rate_limit_exceeded",
        ]
        for secret in (TEAM_KEY, "sk-plinth-wrong", SECRET, "a secret of the client"):
            assert not any(secret.encode() in line for line in raw)
        await controller.close()
        client.close()
        child.process.terminate()
        await child.process.wait()


# --- traces ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sampled", "share"), [(True, 0.0), (False, 1.0), (None, 1.0), (None, 0.0)])
def test_a_trace_goes_on_to_the_replica_and_its_spans_to_the_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, *, sampled: bool | None
) -> None:
    monkeypatch.setattr(trace_export, "_EVERY_SECONDS", 0.01)
    trace_id, span_id = "a" * 32, "b" * 16
    is_told = sampled or (sampled is None and share == 1.0)

    @scenario
    async def run() -> None:
        async with (
            collecting() as collector,
            replicas(stream(3)) as (upstream,),
            serving(
                tmp_path,
                model_at(upstream.port),
                telling=Telling(traces_url=collector.url(), traces_share=share),
            ) as rig,
        ):
            headers = {}
            if sampled is not None:
                headers = {"traceparent": f"00-{trace_id}-{span_id}-0{int(sampled)}", "tracestate": "a=1"}
            assert (await rig.ask(body=STREAMED, headers=headers)).status == 200
            version, trace, parent, flags = upstream.seen[0].headers["traceparent"].split("-")
            assert (version, flags) == ("00", "01" if is_told else "00")
            assert parent != span_id
            if sampled is not None:
                assert trace == trace_id
                assert upstream.seen[0].headers["tracestate"] == "a=1"
            if not is_told:
                await asyncio.sleep(0.1)
                assert not collector.taken
                return
            await eventually(lambda: collector.taken)
            server, call = collector.taken
            assert {server["traceId"], call["traceId"]} == {trace}
            assert server["parentSpanId"] == (span_id if sampled is not None else "")
            assert (call["parentSpanId"], call["spanId"]) == (server["spanId"], parent)
            attributes = {item["key"]: next(iter(item["value"].values())) for item in call["attributes"]}
            assert attributes["gen_ai.operation.name"] == "chat"
            assert attributes["gen_ai.usage.output_tokens"] == "3"
            assert "secret" not in json.dumps(collector.taken)

    run()


@scenario
async def test_without_a_collector_a_clients_trace_goes_on_as_it_came(tmp_path: Path) -> None:
    async with replicas(None) as (upstream,), serving(tmp_path, model_at(upstream.port)) as rig:
        parent = f"00-{'a' * 32}-{'b' * 16}-01"
        await rig.ask(headers={"traceparent": parent})
        assert upstream.seen[0].headers["traceparent"] == parent


# --- metrics -----------------------------------------------------------------------------------------------------


@scenario
async def test_metrics_tell_of_each_model_by_policy_and_band(tmp_path: Path) -> None:
    async with (
        replicas(stream(3)) as (upstream,),
        serving(tmp_path, model_at(upstream.port), access=make_access(POLICY)) as rig,
    ):
        for _ in range(4):
            await rig.ask(body=STREAMED, headers=bearer())
        await rig.ask(body=STREAMED)
        lines = set((await rig.ask("/metrics", method="GET", headers=bearer())).body.decode().splitlines())
        endpoint = "/v1/chat/completions"
        expected = {
            f'requests_total{{code="200",endpoint="{endpoint}",model="{MODEL}",policy="team/some"}} 3.0',
            f'requests_total{{code="429",endpoint="{endpoint}",model="{MODEL}",policy="team/some"}} 1.0',
            f'prompt_tokens_total{{model="{MODEL}",policy="team/some"}} 21.0',
            f'output_tokens_total{{model="{MODEL}",policy="team/some"}} 9.0',
            'refusals_total{policy="team/some",reason="rate_limit_exceeded"} 1.0',
            f'held_seconds_count{{band="interactive",model="{MODEL}"}} 3.0',
            f'time_to_first_token_seconds_count{{band="interactive",model="{MODEL}"}} 3.0',
            f'time_per_output_token_seconds_count{{model="{MODEL}"}} 3.0',
            f'overhead_seconds_count{{model="{MODEL}"}} 3.0',
            f'replicas{{model="{MODEL}",state="Ready"}} 1.0',
        }
        assert {f"plinth_gateway_{line}" for line in expected} <= lines
        assert any('reason="invalid_api_key"' in line for line in lines)
        assert not any(TEAM_KEY in line or make_key().id in line for line in lines)
