"""One replica over two nodes of a real Ray, with real vLLM on the CPU: a pipeline stage on each.

Both nodes are this machine, and their GPUs are in Ray's books only; the engine computes on the CPU, and what it is shown
of them stands in its processes' environment.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from ray_slots import RaySlots, make_slot, two_nodes

from plinth.cluster.processes import find_instance_processes
from plinth.domain.fleet import Engine, SlotPlace, SlotPlan
from plinth.tests.engine.serving import LOOPBACK, listening_hosts, make_spec

pytestmark = [
    pytest.mark.ray,
    pytest.mark.vllm,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(900),
]

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv-vllm"
START_SECONDS = 400
SPEC = make_spec(
    engine=Engine.VLLM,
    context_tokens=512,
    concurrency=2,
    memory_bytes=2 << 30,
    args={"enforce-eager": "true"},
)
INSTANCE = f"e2n{os.getpid():05d}"


class Fleet(RaySlots):
    """A replica on the first node, and one with a stage on each."""

    @property
    def whole(self) -> SlotPlan:
        return make_slot("whole001", SPEC, SlotPlace(self.nodes[0], (0,)))

    @property
    def split(self) -> SlotPlan:
        places = (SlotPlace(self.nodes[0], (2,)), SlotPlace(self.nodes[1], (1,)))
        return make_slot("split001", replace(SPEC, pipeline_parallel=2), *places)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    assert VENV.exists(), "the vLLM environment is missing: bash e2e/vllm-cpu/setup.sh .venv-vllm"
    cache = VENV / "model-cache"  # the conversion takes long; it goes when the environment is made anew
    cache.mkdir(exist_ok=True)
    nodes = two_nodes(
        VENV / "bin" / "python",
        "3",
        folder=tmp_path_factory.mktemp("nodes"),
        instance=INSTANCE,
        cache=cache,
        environment={"PYTHONPATH": str(ROOT / "operator")},
        patience_seconds=3,
    )
    async with nodes as slots:
        made = Fleet(rest=slots.rest, client=slots.client, settings=slots.settings, nodes=slots.nodes)
        await made.apply(made.whole, made.split)
        yield made


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def below(pid: int) -> list[int]:
    """All descendants of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *below(child)]
    return found


def engine_of(replica: int) -> list[int]:
    """The engine's processes on the replica's own node; multiprocessing's own child stays for the replica's life."""
    return [pid for pid in below(replica) if "VLLM::" in command_of(pid)]


def stages() -> list[int]:
    """The processes that hold a further node's part."""
    return [pid for pid in find_instance_processes(INSTANCE) if "plinth.engine.vllm_stage" in command_of(pid)]


def shown(pid: int) -> str:
    """What a process was started to see."""
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(
        line.partition(b"=")[2].decode() for line in environment if line.startswith(b"CUDA_VISIBLE_DEVICES=")
    )


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if command_of(pid)]


async def until(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def test_nothing_on_the_other_node_outlives_a_replica_that_is_killed(fleet: Fleet) -> None:
    slot = await fleet.slot(fleet.split)
    assert slot.pid is not None
    await until(lambda: bool(stages()) and bool(below(stages()[0])), 180)
    parts = [*stages(), *below(stages()[0]), *below(slot.pid)]
    os.kill(slot.pid, signal.SIGKILL)
    await until(lambda: not alive(parts), 20)
    again = await fleet.slot(fleet.split, other_than=slot.pid)
    assert again.running_on == fleet.nodes[0]


async def test_two_stages_on_two_nodes_answer_as_one(fleet: Fleet) -> None:
    whole, _ = await fleet.ready(fleet.whole, seconds=START_SECONDS)
    split, state = await fleet.ready(fleet.split, seconds=START_SECONDS)
    assert state["accelerators"] == [], "there are none on a CPU"
    for prompt in ("The capital of France is", "Water is made of"):
        body = {"model": "chat", "prompt": prompt, "max_tokens": 16, "temperature": 0}
        told = [(await served.post("/v1/completions", body))[1] for served in (whole, split)]
        assert told[0]["choices"][0]["text"].strip()
        assert told[0]["choices"][0]["text"] == told[1]["choices"][0]["text"]
        assert [each["usage"]["completion_tokens"] for each in told] == [16, 16]


async def test_each_part_is_shown_its_own_accelerators_and_listens_on_loopback_only(fleet: Fleet) -> None:
    whole, split = await fleet.slot(fleet.whole), await fleet.slot(fleet.split)
    assert whole.pid is not None
    assert split.pid is not None
    (stage,) = stages()
    engines = {"0": below(whole.pid), "2": below(split.pid), "1": [stage, *below(stage)]}
    for accelerators, pids in engines.items():
        assert pids
        assert {shown(pid) for pid in pids} == {accelerators}
        assert listening_hosts(pids) <= {LOOPBACK}


async def test_at_last_a_replica_fails_whole_with_the_stage_that_died(fleet: Fleet) -> None:
    slot = await fleet.slot(fleet.split)
    assert slot.pid is not None
    split, _ = await fleet.ready(fleet.split, seconds=START_SECONDS)
    (stage,) = stages()
    parts = [stage, *below(stage), *engine_of(slot.pid)]
    (worker,) = [pid for pid in below(stage) if "Worker" in command_of(pid)]
    os.kill(worker, signal.SIGKILL)
    async with asyncio.timeout(20):
        while (state := await split.state())["phase"] != "Failed":
            await asyncio.sleep(0.1)
    assert "the engine's part on node 127.0.0.1 ended" in state["message"]
    await until(lambda: not alive(parts), 20)
    status, answer = await split.post("/v1/completions", {"model": "chat", "prompt": "Hi"})
    assert (status, answer["error"]["code"]) == (503, "replica_not_ready")
