"""A replica over several nodes, as far as it goes without Ray: e2e/tests/test_several_nodes.py has a real one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from plinth.domain.fleet import Engine, ModelFormat
from plinth.engine.accelerators import NodeAccelerators
from plinth.engine.further_nodes import Ended, _all_of, _ending
from plinth.engine.place import ALONE, NodeRank, Place
from plinth.engine.progress import ReplicaProgress
from plinth.engine.seam import EngineError, LocalModel, Progress, SourceError
from plinth.engine.vllm import VllmEngine, _unless_lost
from plinth.engine.vllm_stage import StageOrder, decode_order, encode_order
from plinth.tests.engine.fake_engine import MODEL
from plinth.tests.engine.serving import make_spec

SPLIT = make_spec(engine=Engine.VLLM, pipeline_parallel=2)


class Nodes:
    """One further node that does as a test tells it."""

    accelerators: tuple[NodeAccelerators, ...] = ()

    def __init__(self, refusal: Exception | None = None) -> None:
        self.log: list[Any] = []
        self.refusal = refusal
        self.lost = asyncio.Event()

    def begin(self, token: SecretStr | None) -> None:
        self.log.append(token.get_secret_value() if token else None)

    def fetched(self) -> None:
        self.log.append("fetched")
        if self.refusal is not None:
            raise self.refusal

    def start(self, ranks: Sequence[NodeRank]) -> None:
        self.log.append(tuple(ranks))

    async def until_dead(self) -> str:
        await self.lost.wait()
        return "the node was lost"

    def close(self) -> None:
        self.log.append("closed")


def test_all_nodes_fetch_at_once_with_the_same_token() -> None:
    nodes, progress = Nodes(), ReplicaProgress()

    def fetch(_: SecretStr | None, __: Progress) -> LocalModel:
        nodes.log.append("here")
        return MODEL

    place = Place(further=nodes, nodes=2)
    assert place.fetching(fetch)(SecretStr("hub"), progress) is MODEL
    assert nodes.log == ["hub", "here", "fetched"]
    assert progress.report.message == "fetching the model to all 2 nodes of the replica"
    assert ALONE.fetching(fetch) is fetch


def test_what_another_node_cannot_fetch_fails_the_replica_in_its_words() -> None:
    nodes = Nodes(SourceError("node 10.0.0.2: org/tiny is gated"))
    with pytest.raises(SourceError, match=r"10\.0\.0\.2: org/tiny"):
        Place(further=nodes, nodes=2).fetching(lambda *_: MODEL)(None, ReplicaProgress())


def test_an_order_reaches_the_other_node_as_it_was_given() -> None:
    model = LocalModel(path=Path("/models/m"), format=ModelFormat.SAFETENSORS, weights_bytes=7)
    rank = NodeRank(nodes=2, rank=1, address="10.0.0.1", port=29500)
    order = StageOrder(spec=SPLIT, model=model, rank=rank, address="10.0.0.2")
    line = encode_order(order)
    assert line.count(b"\n") == 1
    assert decode_order(line) == order


@pytest.mark.process
def test_a_part_ends_when_the_actor_that_holds_its_stdin_does() -> None:
    model = LocalModel(path=Path("/nowhere"), format=ModelFormat.SAFETENSORS, weights_bytes=7)
    rank = NodeRank(nodes=2, rank=1, address="127.0.0.1", port=1)
    order = StageOrder(spec=SPLIT, model=model, rank=rank, address="127.0.0.1")
    with subprocess.Popen(
        [sys.executable, "-m", "plinth.engine.vllm_stage"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.communicate(encode_order(order), timeout=60)
    assert process.returncode == 1


@pytest.mark.asyncio
async def test_each_other_node_is_told_its_rank_and_where_to_meet() -> None:
    nodes = Nodes()
    engine = VllmEngine(SPLIT, Path("/cache"), place=Place(further=nodes, nodes=2))
    here = engine._start_further_nodes()
    assert here is not None
    assert (here.nodes, here.rank, here.address) == (2, 0, "127.0.0.1")
    assert nodes.log == [(NodeRank(nodes=2, rank=1, address="127.0.0.1", port=here.port),)]
    await engine.close()
    assert nodes.log[-1] == "closed"


@pytest.mark.asyncio
@pytest.mark.process
async def test_a_node_lost_during_the_start_ends_the_start() -> None:
    nodes, core = Nodes(), get_context("spawn").Process(target=_wait_for_ever)
    core.start()

    async def start() -> None:
        await asyncio.to_thread(core.join)
        raise EngineError("vLLM did not start")

    starting = asyncio.create_task(_unless_lost(start(), nodes))
    await asyncio.sleep(0.1)
    assert not starting.done()
    nodes.lost.set()
    with pytest.raises(EngineError, match="the node was lost"):
        await asyncio.wait_for(starting, 30)
    assert core.exitcode


def _wait_for_ever() -> None:
    threading.Event().wait()


@pytest.mark.asyncio
async def test_a_start_that_fails_by_itself_says_why() -> None:
    async def start() -> None:
        raise EngineError("no room")

    with pytest.raises(EngineError, match="no room"):
        await _unless_lost(start(), Nodes())


@pytest.mark.asyncio
async def test_an_engine_ends_when_any_of_its_parts_does() -> None:
    nodes = Nodes()
    engine = VllmEngine(SPLIT, Path("/cache"), place=Place(further=nodes, nodes=2))
    engine._client = type("Client", (), {"errored": False})()
    watching = asyncio.create_task(engine.until_dead())
    await asyncio.sleep(0)
    nodes.lost.set()
    assert await asyncio.wait_for(watching, 5) == "the node was lost"


@pytest.mark.asyncio
async def test_how_a_part_ended_is_told_with_what_it_said(caplog: pytest.LogCaptureFixture) -> None:
    future: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
    future.set_result(Ended(status=1, log_lines=("OutOfMemoryError: no room",)))
    assert _ending(future) == "ended with exit status 1"
    assert "OutOfMemoryError: no room" in caplog.text


def test_an_actor_takes_all_that_was_reserved_for_it() -> None:
    assert _all_of({"GPU": 2.0}) == {"num_cpus": 0, "num_gpus": 2.0}
    assert _all_of({"memory": 1024.0}) == {"num_cpus": 0, "num_gpus": 0, "memory": 1024}
