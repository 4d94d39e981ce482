"""The official OpenAI client, unchanged, against the gateway with a real engine (llama.cpp) behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from plinth.runtime.profiling import Workload, measure
from plinth.tests.gateway.harness import (
    SECRET,
    Rig,
    eventually,
    hang,
    make_model,
    make_replica,
    make_table,
    replicas,
    running_gateway,
    scenario,
)
from plinth.tests.gateway.real_llamacpp import serve_llamacpp

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def engine() -> Any:
    return serve_llamacpp(slots=4, context=4096, api_keys=[SECRET], n_threads_http=16)


@asynccontextmanager
async def client_of(rig: Rig, **options: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    host, port = rig.gateway.address
    async with openai.AsyncOpenAI(
        base_url=f"http://{host}:{port}/v1", api_key="sk-users-own", **options
    ) as client:
        yield client


def route_to(engine: Any, concurrency: int = 4) -> Any:
    place = urlsplit(engine.listening_address)
    return make_model(make_replica(place.port, host=place.hostname, path="", concurrency=concurrency))


MESSAGES: Any = [{"role": "user", "content": "Say hello."}]


@scenario
async def test_chat_and_completions_answer_with_usage(tmp_path: Path, engine: Any) -> None:
    async with running_gateway(tmp_path, make_table(route_to(engine))) as rig, client_of(rig) as client:
        chat = await client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=4)
        text = await client.completions.create(model="team/tiny", prompt="Once", max_tokens=4)
        listed = [model.id async for model in client.models.list()]
        found = await client.models.retrieve("team/tiny")
        await eventually(lambda: rig.controller.last.models["team/tiny"].completed_total == 2)
        load = rig.controller.last.models["team/tiny"]
    assert chat.choices[0].message.content
    assert chat.usage is not None
    assert chat.usage.completion_tokens == 4
    assert text.choices[0].text
    assert listed == ["tiny"]
    assert found.id == "team/tiny"
    assert load.output_tokens_total == 8


@scenario
async def test_streams_end_with_their_finish_reason_and_a_usage_equal_to_the_tokens_received(
    tmp_path: Path, engine: Any
) -> None:
    async def one(client: openai.AsyncOpenAI) -> tuple[int, str | None, int | None]:
        tokens, reason, counted = 0, None, None
        answer = await client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "Write a long story about a lighthouse."}],
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for part in answer:
            counted = part.usage.completion_tokens if part.usage else counted
            for choice in part.choices:
                tokens += bool(choice.delta.content)
                reason = choice.finish_reason or reason
        return tokens, reason, counted

    async with running_gateway(tmp_path, make_table(route_to(engine))) as rig, client_of(rig) as client:
        results = await asyncio.gather(*[one(client) for _ in range(12)])
    assert results == [(12, "length", 12)] * 12


@scenario
async def test_a_profile_measures_a_real_engine_and_the_gateway_counts_the_same_tokens(
    tmp_path: Path, engine: Any
) -> None:
    workload = Workload(model="team/tiny", input_tokens=24, output_tokens=16)
    async with running_gateway(tmp_path, make_table(route_to(engine))) as rig:
        host, port = rig.gateway.address
        one, three = await measure(f"http://{host}:{port}/v1", workload, [1, 3], 4.0)
        await eventually(lambda: rig.controller.last.models["team/tiny"].in_flight == 0)
        counted = rig.controller.last.models["team/tiny"].output_tokens_total
    for level in (one, three):
        assert level.failed == 0
        assert 0 < level.ttft_p50_milliseconds <= level.ttft_p99_milliseconds < 4000
        assert level.tpot_microseconds > 0
    measured = 1.5 * (
        one.tokens_per_second + three.tokens_per_second
    )  # in three quarters of two seconds each
    assert 0.5 * counted < measured < 1.1 * counted


@scenario
async def test_errors_are_the_clients_own_exceptions(tmp_path: Path, engine: Any) -> None:
    async with (
        running_gateway(tmp_path, make_table(route_to(engine))) as rig,
        client_of(rig, max_retries=0) as client,
    ):
        with pytest.raises(openai.NotFoundError) as missing:
            await client.chat.completions.create(model="none", messages=MESSAGES)
        assert missing.value.code == "model_not_found"
        assert missing.value.request_id
        with pytest.raises(openai.BadRequestError) as wrong:
            await client.embeddings.create(model="tiny", input="text")
        assert "/v1/chat/completions" in wrong.value.message
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="tiny", messages="no list")  # type: ignore[arg-type] # wrong on purpose
        await rig.controller.apply(
            make_table(make_model(availability="Refused", message="no GPU"), version=2)
        )
        with pytest.raises(openai.InternalServerError, match="no GPU"):
            await client.chat.completions.create(model="tiny", messages=MESSAGES)


@scenario
async def test_a_clients_own_timeout_frees_the_replica(tmp_path: Path) -> None:
    async with (
        replicas(hang) as (upstream,),
        running_gateway(tmp_path, make_table(make_model(make_replica(upstream.port)))) as rig,
        client_of(rig, max_retries=0, timeout=0.3) as client,
    ):
        with pytest.raises(openai.APITimeoutError):
            await client.chat.completions.create(model="tiny", messages=MESSAGES)
        await asyncio.sleep(0.1)
        assert upstream.seen[0].hung_up


@scenario
async def test_the_client_retries_what_the_gateway_says_is_worth_retrying(
    tmp_path: Path, engine: Any
) -> None:
    async with running_gateway(tmp_path) as rig, client_of(rig, max_retries=2) as client:
        asked = asyncio.ensure_future(
            client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=2)
        )
        await asyncio.sleep(0.3)
        await rig.controller.apply(make_table(route_to(engine)))
        assert (await asked).choices
