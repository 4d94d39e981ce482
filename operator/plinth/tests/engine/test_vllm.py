"""Real vLLM, on the CPU, in the environment that e2e/vllm-cpu/setup.sh makes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from plinth.domain.fleet import Engine
from plinth.domain.sizing.calibration import CALIBRATION
from plinth.tests.engine.planned_memory import TOLERANCE, plan_smollm2
from plinth.tests.engine.serving import LOOPBACK, SECRET, Served, listening_hosts

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[4]
VENV = ROOT / ".venv-vllm"
START_SECONDS = 600
"""40 s on two idle cores, and many times that on busy ones."""
IMPORT_SECONDS = 90
"""A process that has just been started looks for its parent when it has imported vLLM: 10 s on two idle cores."""
SMOLLM2_PARAMETERS = 134_515_008
SMOLLM2_KV_BYTES = 30 * 2 * 3 * 64 * 2
"""A token's K and V: layers, KV heads, head size, 16 bits."""
SPEC: dict[str, Any] = {
    "engine": "VLLM",
    "context_tokens": 1024,
    "concurrency": 4,
    "memory_bytes": 3 << 30,
    "args": {"enforce-eager": "true"},
}


@contextmanager
def replica(tmp_path: Path, changes: dict[str, object]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    assert VENV.exists(), "the vLLM environment is missing: bash e2e/vllm-cpu/setup.sh .venv-vllm"
    cache = VENV / "model-cache"  # the conversion takes long; it goes when the environment is made anew
    cache.mkdir(exist_ok=True)
    (tmp_path / "cache").symlink_to(cache)
    with (tmp_path / "worker.err").open("w") as log:
        process = subprocess.Popen(
            [
                VENV / "bin" / "python",
                "-m",
                "plinth.tests.engine.run_replica",
                tmp_path,
                json.dumps(SPEC | changes),
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        for pid in session(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def session(leader: int) -> dict[int, str]:
    """The living processes of a session, by pid, with their names."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            name, _, rest = (folder / "stat").read_text().rpartition(")")
        except (OSError, ValueError):
            continue
        fields = rest.split()
        if int(fields[3]) == leader and fields[0] != "Z":
            found[int(folder.name)] = name.partition("(")[2]
    return found


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def named(leader: int, part: str) -> int:
    """The one process of a session with this in its name."""
    (pid,) = [pid for pid, name in session(leader).items() if part in name]
    return pid


class Vllm(Served):
    leader = 0
    answers: Counter[str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vllm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Vllm]:
    with replica(tmp_path_factory.mktemp("vllm"), {}) as (process, base):
        headers = {"authorization": f"Bearer {SECRET}"}
        async with aiohttp.ClientSession(headers=headers) as client:
            served = Vllm(base, client)
            served.leader = process.pid
            served.answers = Counter()
            deadline = time.monotonic() + START_SECONDS
            while (state := await served.state())["phase"] != "Ready":
                assert state["phase"] != "Failed", state
                assert time.monotonic() < deadline, state
                served.answers[state["phase"]] += 1
                await asyncio.sleep(0.2)
            yield served


async def test_the_state_answers_while_vllm_starts(vllm: Vllm) -> None:
    assert vllm.answers["Loading"] > 20


async def test_a_ready_replica_tells_what_vllm_holds(vllm: Vllm) -> None:
    state = await vllm.state()
    memory = state["figures"]["memory"]
    assert memory["weights_bytes"] == SMOLLM2_PARAMETERS * 2  # bf16
    room = SPEC["memory_bytes"] - memory["weights_bytes"] - CALIBRATION.memory.cpu_bytes[Engine.VLLM]
    assert 0.97 * room < memory["kv_bytes"] <= room
    assert abs(memory["kv_tokens"] * SMOLLM2_KV_BYTES - memory["kv_bytes"]) < 1024 * SMOLLM2_KV_BYTES
    assert 0 < state["start_milliseconds"] < START_SECONDS * 1000


async def test_the_plan_knows_what_vllm_will_hold(vllm: Vllm) -> None:
    planned = plan_smollm2(
        Engine.VLLM,
        memory_bytes=SPEC["memory_bytes"],
        context_tokens=SPEC["context_tokens"],
        concurrency=SPEC["concurrency"],
    )
    memory = (await vllm.state())["figures"]["memory"]
    assert planned.weights_bytes == pytest.approx(memory["weights_bytes"], rel=TOLERANCE)
    assert planned.kv_tokens == pytest.approx(memory["kv_tokens"], rel=TOLERANCE)


async def test_every_served_name_answers(vllm: Vllm) -> None:
    for name in ("chat", "team/chat"):
        body = {"model": name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        status, answer = await vllm.post("/v1/chat/completions", body)
        assert (status, answer["usage"]["completion_tokens"]) == (200, 4)
    status, answer = await vllm.post("/v1/completions", {"model": "other", "prompt": "Hi"})
    assert status == 404
    assert "other" in answer["error"]["message"]


async def test_a_stream_ends_with_its_usage(vllm: Vllm) -> None:
    body = {"model": "chat", "prompt": "Count:", "max_tokens": 12, "ignore_eos": True, "stream": True}
    events, arrivals = [], []
    options = {"stream_options": {"include_usage": True}}
    async with vllm.session.post(vllm.base + "/v1/completions", json=body | options) as answer:
        async for line in answer.content:
            if line.startswith(b"data: "):
                events.append(line.removeprefix(b"data: ").strip())
                arrivals.append(time.monotonic())
    assert events[-1] == b"[DONE]"
    assert json.loads(events[-2])["usage"]["completion_tokens"] == 12
    assert arrivals[-1] - arrivals[0] > 0.05, "all chunks came at once"


async def test_a_text_becomes_tokens_and_tokens_a_text(vllm: Vllm) -> None:
    _, told = await vllm.post(
        "/tokenize", {"model": "chat", "prompt": "hello world", "return_token_strs": True}
    )
    assert (told["count"], len(told["tokens"]), len(told["token_strs"])) == (2, 2, 2)
    back = await vllm.post("/detokenize", {"model": "chat", "tokens": told["tokens"]})
    assert back == (200, {"prompt": "hello world"})
    talk = {"model": "chat", "messages": [{"role": "user", "content": "hello world"}]}
    status, counted = await vllm.post("/v1/messages/count_tokens", talk)
    assert status == 200
    assert counted["input_tokens"] > 2


async def test_it_tells_how_long_its_context_is(vllm: Vllm) -> None:
    async with vllm.session.get(vllm.base + "/v1/models") as answer:
        assert {model["max_model_len"] for model in (await answer.json())["data"]} == {1024}


async def test_only_the_inference_api_is_reachable(vllm: Vllm) -> None:
    for path in ("/metrics", "/v1/messages", "/v1/responses", "/v1/embeddings", "/docs", "/apply-template"):
        async with vllm.session.get(vllm.base + path) as answer:
            assert answer.status == 404


async def test_nothing_listens_beyond_loopback(vllm: Vllm) -> None:
    assert listening_hosts(session(vllm.leader)) == {LOOPBACK}


async def test_a_client_that_hangs_up_stops_the_computing(vllm: Vllm) -> None:
    body = {"model": "chat", "prompt": "Count:", "max_tokens": 1000, "ignore_eos": True, "stream": True}
    worker = named(vllm.leader, "VLLM::Worker")
    async with vllm.session.post(vllm.base + "/v1/completions", json=body) as answer:
        await answer.content.readline()
        before = cpu_seconds(worker)
        await asyncio.sleep(1)
        computing = cpu_seconds(worker) - before
        answer.close()
    await asyncio.sleep(1)
    before = cpu_seconds(worker)
    await asyncio.sleep(1)
    assert computing > 0.1
    assert cpu_seconds(worker) - before < computing / 4


async def test_at_last_the_death_of_its_core_is_reported(vllm: Vllm) -> None:
    os.kill(named(vllm.leader, "VLLM::EngineCor"), signal.SIGKILL)
    state = await vllm.until("Failed", seconds=10)
    assert state["message"] == "vLLM's engine died (EngineDeadError)"
    status, answer = await vllm.post("/v1/completions", {"model": "chat", "prompt": "Hi"})
    assert (status, answer["error"]["code"]) == (503, "replica_not_ready")


@pytest.mark.parametrize(
    ("changes", "there"),
    [({}, {"VLLM::Worker"}), ({"data_parallel": 2}, {"VLLM::DPCoordin", "VLLM::EngineCor"})],
    ids=["with its workers", "with its coordinator of copies"],
)
async def test_nothing_outlives_a_replica_that_is_killed(
    tmp_path: Path, changes: dict[str, object], there: set[str]
) -> None:
    with replica(tmp_path, changes) as (process, _):
        deadline = time.monotonic() + START_SECONDS
        while not there <= set(session(process.pid).values()):
            assert time.monotonic() < deadline
            assert process.poll() is None
            await asyncio.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
        deadline = time.monotonic() + IMPORT_SECONDS
        while (left := session(process.pid)) and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        assert left == {}
