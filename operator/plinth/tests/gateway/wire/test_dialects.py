"""Messages and responses over an engine that knows chat alone: whole, streamed, broken, refused, gone on elsewhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from plinth.domain.access import HOUR
from plinth.gateway.surface.native import LLAMA_CPP
from plinth.tests.gateway.harness import (
    answer,
    close,
    eventually,
    make_model,
    make_replica,
    replicas,
    scenario,
)
from plinth.tests.gateway.limits.builders import make_limit
from plinth.tests.gateway.test_resume_on_the_wire import CHAT
from plinth.tests.gateway.test_resume_on_the_wire import serving as engine_serving
from plinth.tests.gateway.token_engine import Engine, read_stream
from plinth.tests.gateway.wire.rig import bearer, make_access, make_policy, model_at, serving, used

pytestmark = pytest.mark.process

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
ASKED: dict[str, dict[str, Any]] = {
    MESSAGES: {
        "model": "tiny",
        "max_tokens": 20,
        "messages": [{"role": "user", "content": "Tell"}],
        "temperature": 0,
    },
    RESPONSES: {"model": "tiny", "max_output_tokens": 20, "input": "Tell", "temperature": 0},
}
CHAT_DOCUMENT = {
    "id": "c-1",
    "object": "chat.completion",
    "created": 1,
    "model": "tiny",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "the sea"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
}
both = pytest.mark.parametrize("path", [MESSAGES, RESPONSES])


def events(body: bytes) -> Iterator[dict[str, Any]]:
    """Each with its name, which is its type too."""
    for block in body.decode().strip().split("\n\n"):
        name, _, data = block.partition("\n")
        found = json.loads(data.removeprefix("data: "))
        assert name == f"event: {found['type']}"
        yield found


def read_messages(body: bytes) -> tuple[str, str]:
    """The text of a stream and why it ended; fails where a client would."""
    text, reason, open_block, started = "", "", None, False
    for event in events(body):
        assert reason != "over", "nothing follows the end"
        match event["type"]:
            case "message_start":
                assert not started
                started = True
            case "content_block_start":
                assert open_block is None
                open_block = event["index"]
            case "content_block_delta":
                assert event["index"] == open_block
                text += event["delta"]["text"]
            case "content_block_stop":
                assert event["index"] == open_block
                open_block = None
            case "message_delta":
                assert open_block is None
                reason = event["delta"]["stop_reason"]
                assert event["usage"]["output_tokens"] > 0
            case "message_stop":
                assert reason
                return text, reason
            case "error":
                reason = "over"
    return text, "error"


def read_responses(body: bytes) -> tuple[str, str]:
    text, status = "", "error"
    for number, event in enumerate(events(body)):
        assert event["sequence_number"] == number
        assert status == "error", "nothing follows the end"
        match event["type"]:
            case "response.output_text.delta":
                text += event["delta"]
            case "response.output_text.done":
                assert event["text"] == text
            case "response.completed" | "response.incomplete" | "response.failed":
                status = event["response"]["status"]
                if status != "failed":
                    assert event["response"]["output"][0]["content"][0]["text"] == text
                    assert event["response"]["usage"]["output_tokens"] > 0
    return text, "error" if status == "failed" else status


READ = {MESSAGES: read_messages, RESPONSES: read_responses}


@both
def test_a_whole_answer_comes_in_the_clients_dialect(tmp_path: Path, path: str) -> None:
    @scenario
    async def run() -> None:
        async with (
            replicas(answer(CHAT_DOCUMENT)) as (upstream,),
            serving(tmp_path, model_at(upstream.port)) as rig,
        ):
            got = (await rig.ask(path, ASKED[path])).json()
            assert upstream.seen[0].line.split()[1].endswith(CHAT)
            content = got["content"] if path == MESSAGES else got["output"][0]["content"]
            assert [part["text"] for part in content] == ["the sea"]
            assert (got["usage"]["input_tokens"], got["usage"]["output_tokens"]) == (7, 5)

    run()


@both
@pytest.mark.parametrize("named", [True, False], ids=["vLLM", "llama.cpp"])
@pytest.mark.parametrize("ends_after", [None, 1, 9, 20])
def test_a_stream_is_one_stream_though_its_replica_dies(
    tmp_path: Path, path: str, ends_after: int | None, *, named: bool
) -> None:
    @scenario
    async def run() -> None:
        first = engine_serving(Engine(names_tokens=named), ends_after=ends_after, how="cut")
        async with (
            replicas(first, engine_serving(Engine(names_tokens=named))) as (one, two),
            serving(tmp_path, model_at(one.port, two.port)) as rig,
        ):
            got = await rig.ask(path, ASKED[path] | {"stream": True})
            asked = json.loads(one.seen[0].body) | {"return_token_ids": False}
            undisturbed = read_stream(
                b"".join(Engine(names_tokens=named).stream(CHAT, json.dumps(asked).encode()))
            )
            text, reason = READ[path](got.body)
            assert text == undisturbed.texts["content"]
            assert reason in {"end_turn", "max_tokens", "completed", "incomplete"}
            assert await rig.metric("plinth_gateway_resumed_streams_total") == (ends_after is not None)
            assert b"token_ids" not in got.body

    run()


@both
def test_a_stream_that_cannot_go_on_ends_with_one_error_of_its_dialect(tmp_path: Path, path: str) -> None:
    @scenario
    async def run() -> None:
        async with (
            replicas(engine_serving(Engine(), every=0.02)) as (one,),
            serving(tmp_path, model_at(one.port), resume_seconds=0.3) as rig,
        ):
            asked = asyncio.ensure_future(rig.ask(path, ASKED[path] | {"stream": True}))
            await eventually(lambda: one.seen)
            await asyncio.sleep(0.15)
            await one.stop()
            got = await asked
            assert got.complete
            text, reason = READ[path](got.body)
            assert text
            assert reason == "error"
            assert b"[DONE]" not in got.body

    run()


@both
@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({}, {}, 401),
        ({"model": "none"}, bearer(), 404),
        ({"messages": 3, "input": 3}, bearer(), 400),
        ({}, bearer(), 429),
    ],
    ids=["no key", "no such model", "a wrong field", "a limit"],
)
def test_errors_are_said_in_the_clients_dialect(
    tmp_path: Path, path: str, body: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    @scenario
    async def run() -> None:
        limit = make_limit("requests", 1, HOUR)
        async with (
            replicas(answer(CHAT_DOCUMENT)) as (upstream,),
            serving(tmp_path, model_at(upstream.port), access=make_access(make_policy(limit))) as rig,
        ):
            if status == 429:
                assert (await rig.ask(path, ASKED[path], headers=headers)).status == 200
            got = await rig.ask(path, ASKED[path] | body, headers=headers)
            assert got.status == status
            document = got.json()
            if path == MESSAGES:
                assert document["type"] == "error"
                assert document["request_id"] == got.headers["x-request-id"]
                assert document["error"]["type"].endswith("_error")
            else:
                assert set(document["error"]) >= {"message", "type", "code", "param"}

    run()


@both
def test_an_engines_refusal_is_passed_on_in_the_clients_dialect(tmp_path: Path, path: str) -> None:
    @scenario
    async def run() -> None:
        refusal = {"error": {"message": "too long for 4096 tokens", "type": "BadRequestError", "code": 400}}
        async with (
            replicas(answer(refusal, "400 Bad Request")) as (upstream,),
            serving(tmp_path, model_at(upstream.port)) as rig,
        ):
            for streams in (False, True):
                got = await rig.ask(path, ASKED[path] | {"stream": streams})
                assert got.status == 400
                assert "too long for 4096 tokens" in got.json()["error"]["message"]
                assert got.json().get("type") == ("error" if path == MESSAGES else None)

    run()


@both
def test_tokens_of_translated_streams_are_settled_too(tmp_path: Path, path: str) -> None:
    @scenario
    async def run() -> None:
        limit = make_limit("outputTokens", 10_000, HOUR)
        async with (
            replicas(engine_serving(Engine())) as (upstream,),
            serving(tmp_path, model_at(upstream.port), access=make_access(make_policy(limit))) as rig,
        ):
            got = await rig.ask(path, ASKED[path] | {"stream": True}, headers=bearer())
            assert got.status == 200
            assert used(rig, limit) == 20

    run()


# --- what engines take by other names ---------------------------------------------------------------------------


class Case(NamedTuple):
    """One request, as llama.cpp takes it, what that answers, and what clients get from every engine."""

    task: str
    path: str
    asked: dict[str, Any]
    native: tuple[str, dict[str, Any]]
    found: dict[str, Any]
    expected: dict[str, Any]


CASES = (
    Case(
        "Generate",
        "/tokenize",
        {"prompt": "the sea"},
        ("/tokenize", {"content": "the sea", "add_special": True, "parse_special": True}),
        {"tokens": [1, 2]},
        {"count": 2, "tokens": [1, 2]},
    ),
    Case(
        "Generate",
        "/detokenize",
        {"tokens": [1, 2]},
        ("/detokenize", {"tokens": [1, 2]}),
        {"content": "the sea"},
        {"prompt": "the sea"},
    ),
    Case(
        "Rerank",
        "/v1/score",
        {"text_1": "sea", "text_2": ["land", "water"]},
        ("/v1/rerank", {"query": "sea", "documents": ["land", "water"]}),
        {"results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]},
        {
            "object": "list",
            "model": "",
            "data": [
                {"index": 0, "object": "score", "score": 0.1},
                {"index": 1, "object": "score", "score": 0.9},
            ],
        },
    ),
)


@pytest.mark.parametrize("engine", ["VLLM", LLAMA_CPP])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path)
def test_each_engine_is_asked_as_it_takes_it(tmp_path: Path, engine: str, case: Case) -> None:
    @scenario
    async def run() -> None:
        is_native = engine == LLAMA_CPP
        path, asked = case.native if is_native else (case.path, case.asked)
        async with (
            replicas(answer(case.found if is_native else case.expected)) as (upstream,),
            serving(tmp_path, model_at(upstream.port, engine=engine, task=case.task)) as rig,
        ):
            got = await rig.ask(case.path, {"model": "tiny"} | case.asked)
            assert got.json() == case.expected
            assert upstream.seen[0].line == f"POST /team.tiny.abc.0{path} HTTP/1.1"
            assert json.loads(upstream.seen[0].body) == {"model": "tiny"} | asked

    run()


@scenario
async def test_while_a_model_changes_its_engine_each_replica_is_asked_as_it_takes_it(tmp_path: Path) -> None:
    case = CASES[2]
    async with replicas(answer(case.found), answer(case.expected)) as (llama, vllm):
        model = make_model(
            make_replica(llama.port, slot="a.0", engine=LLAMA_CPP),
            make_replica(vllm.port, slot="b.0", engine="VLLM"),
            task=case.task,
            aliases=("sea",),
        )
        async with serving(tmp_path, model) as rig:
            for failing in (
                llama,
                vllm,
            ):  # what it was to do, the other does: asked anew as that one takes it
                before, failing.behave = failing.behave, close
                for name in ("tiny", "sea"):
                    got = await rig.ask(case.path, {"model": name} | case.asked)
                    assert (got.status, got.json()) == (200, case.expected)
                failing.behave = before
            asked = [{json.dumps(json.loads(seen.body)) for seen in each.seen} for each in (llama, vllm)]
            assert asked == [{json.dumps({"model": "tiny"} | each)} for each in (case.native[1], case.asked)]


@scenario
async def test_what_its_engine_cannot_do_is_refused_and_the_replica_goes_on(tmp_path: Path) -> None:
    async with (
        replicas(answer({"tokens": [1]})) as (upstream,),
        serving(tmp_path, model_at(upstream.port, engine=LLAMA_CPP, concurrency=1)) as rig,
    ):
        got = await rig.ask("/tokenize", {"model": "tiny", "messages": []})
        assert (got.status, got.json()["error"]["param"]) == (400, "messages")
        assert not upstream.seen
        assert (await rig.ask("/tokenize", {"model": "tiny", "prompt": "the sea"})).status == 200


@scenario
async def test_tokens_of_a_message_are_counted_by_the_engine(tmp_path: Path) -> None:
    async with (
        replicas(answer({"input_tokens": 9})) as (upstream,),
        serving(tmp_path, model_at(upstream.port)) as rig,
    ):
        got = await rig.ask("/v1/messages/count_tokens", ASKED[MESSAGES])
        assert (got.status, got.json()) == (200, {"input_tokens": 9})
