"""Streams whose replica dies, hangs or is swapped under way, over real sockets: what clients read of them."""

# ruff: noqa: ARG001, FBT001 - behaviours take what they need not, cases are plain
from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from plinth.domain.traffic import ReplicaState
from plinth.tests.gateway.harness import (
    MODEL,
    STREAM_HEAD,
    Behaviour,
    Seen,
    Upstream,
    eventually,
    framed,
    make_model,
    make_replica,
    make_table,
    replicas,
    running_gateway,
    scenario,
    start_replica_process,
    whole,
)
from plinth.tests.gateway.token_engine import Engine, read_stream

pytestmark = pytest.mark.process

CHAT = "/v1/chat/completions"
BODY = {
    "model": "tiny",
    "stream": True,
    "temperature": 0,
    "max_tokens": 20,
    "messages": [{"role": "user", "content": "Tell"}],
}


def serving(
    engine: Engine, *, every: float = 0.005, ends_after: int | None = None, how: str = ""
) -> Behaviour:
    """The engine over HTTP; its first stream ends after so many events: `cut`, `hang`, or in peace without its end."""
    done: list[int] = []

    async def behave(upstream: Upstream, seen: Seen, writer: asyncio.StreamWriter) -> None:
        path = seen.line.split()[1].removeprefix("/team.tiny.abc.0")
        if not path.startswith((CHAT, "/v1/completions")):
            writer.write(whole(engine.small(path, seen.body)))
            return
        writer.write(STREAM_HEAD)
        for index, event in enumerate(engine.stream(path, seen.body)):
            if index == ends_after and not done:
                done.append(index)
                if how == "hang":
                    await asyncio.sleep(3600)
                if how == "cut":
                    writer.transport.abort()
                    return
                break
            writer.write(framed(event))
            await writer.drain()
            await asyncio.sleep(every)
        writer.write(b"0\r\n\r\n")

    return behave


def undisturbed(**fields: Any) -> Any:
    return read_stream(b"".join(Engine(**fields).stream(CHAT, json.dumps(BODY).encode())))


async def two_replicas(
    folder: Path, first: Behaviour, second: Behaviour, **limits: Any
) -> tuple[Any, float, float]:
    """What a client reads, streams that went on elsewhere, streams that broke."""
    async with replicas(first, second) as (one, two):
        table = make_table(make_model(make_replica(one.port, slot="a"), make_replica(two.port, slot="b")))
        async with running_gateway(folder, table, **limits) as rig:
            got = await rig.ask(body=BODY)
            assert got.complete
            return (
                got,
                await rig.metric("plinth_gateway_resumed_streams_total"),
                await rig.metric("plinth_gateway_broken_streams_total"),
            )


@pytest.mark.parametrize("named", [True, False], ids=["vLLM", "llama.cpp"])
@pytest.mark.parametrize("how", ["cut", "peace"])
@pytest.mark.parametrize("after", [1, 2, 9, 20])
def test_a_stream_whose_replica_ends_goes_on_at_another(
    tmp_path: Path, named: bool, how: str, after: int
) -> None:
    @scenario
    async def run() -> None:
        first = serving(Engine(names_tokens=named), ends_after=after, how=how)
        got, resumed, broken = await two_replicas(tmp_path, first, serving(Engine(names_tokens=named)))
        seen, whole_one = read_stream(got.body), undisturbed(names_tokens=named)
        assert (seen.texts, seen.finish, seen.done) == (whole_one.texts, whole_one.finish, True)
        assert (resumed, broken) == (1, 0)
        assert len(seen.ids) == 1
        assert b'token_ids":[' not in got.body

    run()


@scenario
async def test_a_stuck_stream_goes_on_at_another_after_the_patience_that_its_replica_has_taught(
    tmp_path: Path,
) -> None:
    hung = serving(Engine(), ends_after=9, how="hang")
    async with replicas(hung, serving(Engine())) as (one, two):
        table = make_table(make_model(make_replica(one.port, slot="a"), make_replica(two.port, slot="b")))
        async with running_gateway(tmp_path, table, stuck_seconds=1.0) as rig:
            replica = rig.gateway.core.fleet.replicas()[0]
            for _ in range(3000):  # streams of this replica are quick
                replica.pace.saw(0.0, 0.005)
            began = asyncio.get_running_loop().time()
            got = await rig.ask(body=BODY)
            took = asyncio.get_running_loop().time() - began
            assert await rig.metric("plinth_gateway_resumed_streams_total") == 1
    assert read_stream(got.body).texts == undisturbed().texts
    assert 1.5 < took < 6


@scenario
async def test_the_streams_of_a_process_that_stops_go_on_at_another(tmp_path: Path) -> None:
    child, port = await start_replica_process("stream(10000, every=0.02)")
    async with replicas(serving(Engine())) as (other,):
        alone = make_table(make_model(make_replica(port, slot="a")))
        async with running_gateway(tmp_path, alone) as rig:
            asked = asyncio.ensure_future(rig.ask(body=BODY))
            replica = rig.gateway.core.fleet.replicas()[0]
            await eventually(lambda: replica.calls)
            for _ in range(3000):
                replica.pace.saw(0.0, 0.005)
            await asyncio.sleep(0.3)
            both = make_model(make_replica(port, slot="a"), make_replica(other.port, slot="b"))
            await rig.controller.apply(make_table(both, version=2))
            child.process.send_signal(signal.SIGSTOP)
            got = await asked  # nothing of the sort is at the other one, which is found out there
            assert 1 <= await rig.metric("plinth_gateway_resumed_streams_total") <= 4, "attempts are bounded"
            assert b"stream_broken" in got.body
            assert rig.controller.last.replicas["a"].state is ReplicaState.DEAD
    await child.end()


@scenario
async def test_streams_go_on_together_when_their_replica_dies(tmp_path: Path) -> None:
    async with replicas(serving(Engine(), every=0.02), serving(Engine(), every=0.005)) as (one, two):
        table = make_table(make_model(make_replica(one.port, slot="a"), make_replica(two.port, slot="b")))
        async with running_gateway(tmp_path, table) as rig:
            asked = [asyncio.ensure_future(rig.ask(body=BODY)) for _ in range(40)]
            await asyncio.sleep(0.15)
            await one.stop()
            answers = await asyncio.gather(*asked)
            assert await rig.metric("plinth_gateway_broken_streams_total") == 0
            assert await rig.metric("plinth_gateway_resumed_streams_total") >= 10
    for got in answers:
        assert read_stream(got.body).texts == undisturbed().texts
        assert read_stream(got.body).done


@scenario
async def test_a_stream_with_no_other_replica_waits_for_one_and_then_ends_with_one_error(
    tmp_path: Path,
) -> None:
    async with replicas(serving(Engine(), ends_after=9, how="cut")) as (one,):
        table = make_table(make_model(make_replica(one.port, slot="a")))
        async with running_gateway(tmp_path, table, resume_seconds=0.5) as rig:
            asked = asyncio.ensure_future(rig.ask(body=BODY))
            await eventually(lambda: one.seen)
            await one.stop()
            got = await asked
    assert got.complete
    last = json.loads(got.body.split(b"\n\n")[-2].removeprefix(b"data: "))
    assert last["error"]["code"] == "stream_broken"
    assert b"[DONE]" not in got.body


@scenario
async def test_what_cannot_go_on_exactly_ends_with_one_error_that_says_why(tmp_path: Path) -> None:
    body = {**BODY, "logprobs": True}
    async with replicas(serving(Engine(), ends_after=5, how="cut"), serving(Engine())) as (one, two):
        table = make_table(make_model(make_replica(one.port, slot="a"), make_replica(two.port, slot="b")))
        async with running_gateway(tmp_path, table) as rig:
            got = await rig.ask(body=body)
    last = json.loads(got.body.split(b"\n\n")[-2].removeprefix(b"data: "))
    assert "log-probabilities" in last["error"]["message"]
    assert got.body.count(b'"error"') == 1


@scenario
async def test_usage_is_counted_and_shown_only_to_who_asked_for_it(tmp_path: Path) -> None:
    async with replicas(serving(Engine())) as (one,):
        table = make_table(make_model(make_replica(one.port)))
        async with running_gateway(tmp_path, table) as rig:
            silent = await rig.ask(body=BODY)
            asked = await rig.ask(body={**BODY, "stream_options": {"include_usage": True}})
            tokens = rig.gateway.core.fleet.models[MODEL].load().output_tokens_total
    assert read_stream(silent.body).usage is None
    usage = read_stream(asked.body).usage
    assert usage is not None
    assert tokens == 2 * usage["completion_tokens"]
