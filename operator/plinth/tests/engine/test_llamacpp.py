from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from plinth.api.v1alpha1.modeldeployment import Task
from plinth.domain.fleet import Engine
from plinth.engine.accelerators import NodeAccelerators
from plinth.engine.place import Place
from plinth.engine.seam import PATHS
from plinth.tests.engine.planned_memory import TOLERANCE, plan_smollm2
from plinth.tests.engine.serving import Served, make_spec, serving, stderr_in

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

ENDLESS = {"prompt": "Count:", "max_tokens": 480, "ignore_eos": True, "stream": True}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chat(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with serving(tmp_path_factory.mktemp("chat"), make_spec(concurrency=1)) as served:
        await served.until("Ready")
        yield served


async def test_a_replica_is_ready_only_after_it_has_generated_a_token(tmp_path: Path) -> None:
    async with serving(tmp_path, make_spec()) as served:
        body = {"prompt": "Hi", "max_tokens": 1}
        while (await served.state())["phase"] != "Ready":
            status, answer = await served.post("/v1/completions", body)
            assert status == 200 or answer["error"]["code"] == "replica_not_ready"
        assert (await served.post("/v1/completions", body))[0] == 200


async def test_the_state_answers_while_llama_cpp_loads_and_cannot_be_interrupted(tmp_path: Path) -> None:
    async with serving(tmp_path, make_spec()) as served:
        while not child_processes():
            await asyncio.sleep(0.005)
        os.kill(child_process(), signal.SIGSTOP)  # a load that takes long, as far as the replica can tell
        for _ in range(10):
            assert (await served.state())["phase"] == "Loading"
            await asyncio.sleep(0.02)
        os.kill(child_process(), signal.SIGCONT)
        await served.until("Ready")


async def test_loading_is_measured_in_bytes_of_the_weights(tmp_path: Path) -> None:
    async with serving(tmp_path, make_spec()) as served:
        await served.until("Loading")
        totals = set()
        while (state := await served.state())["phase"] == "Loading":
            totals.add(state["bytes_total"])
            assert state["bytes_done"] <= state["bytes_total"]
            await asyncio.sleep(0.02)
        assert max(totals) > 90 << 20


async def test_the_engines_process_is_shown_what_its_replica_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "")  # so that it is put back
    place = Place(here=NodeAccelerators(own=("4", "5", "6"), given=(2, 0)))
    async with serving(tmp_path, make_spec(), place) as served:
        state = await served.until("Ready")
        environment = Path(f"/proc/{child_process()}/environ").read_bytes().split(b"\0")
        assert b"CUDA_VISIBLE_DEVICES=6,4" in environment
        assert state["accelerators"] == [], "it computes on the CPU, and says so"


async def test_chat_is_answered_under_the_prefix(chat: Served) -> None:
    body = {"model": "chat", "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 8}
    status, answer = await chat.post("/v1/chat/completions", body)
    assert status == 200
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] <= 8


async def test_a_stream_arrives_token_by_token(chat: Served) -> None:
    body = ENDLESS | {"max_tokens": 20, "stream_options": {"include_usage": True}}
    arrivals, events = [], []
    async with chat.session.post(chat.base + "/v1/completions", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.content:
            if line.startswith(b"data: "):
                arrivals.append(time.monotonic())
                events.append(line.removeprefix(b"data: ").strip())
    assert events[-1] == b"[DONE]"
    assert json.loads(events[-2])["usage"]["completion_tokens"] == 20
    assert arrivals[-1] - arrivals[0] > 0.05, "all chunks came at once"


async def test_an_error_of_the_engine_reaches_the_client_as_it_is(chat: Served) -> None:
    status, answer = await chat.post("/v1/completions", {"prompt": "word " * 2000, "max_tokens": 4})
    assert status == 400
    assert "context" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "tools": [None]}),
        ("/v1/chat/completions", {"messages": [{"content": 5}]}),
        ("/v1/messages/count_tokens", {}),
        ("/detokenize", {"tokens": [60_000]}),
    ],
)
async def test_what_is_wrong_with_a_request_is_never_said_to_be_wrong_with_the_engine(
    chat: Served, path: str, fields: dict[str, object]
) -> None:
    status, answer = await chat.post(path, fields)
    assert status == 400, answer


async def test_a_client_that_hangs_up_frees_the_engine_at_once(chat: Served) -> None:
    began = time.monotonic()
    async with chat.session.post(chat.base + "/v1/completions", json=ENDLESS) as answer:
        for _ in range(20):  # ten tokens, each followed by an empty line
            await answer.content.readline()
        ten_tokens = time.monotonic() - began
        answer.close()
    began = time.monotonic()
    status, _ = await chat.post("/v1/completions", {"prompt": "Hi", "max_tokens": 1})
    assert status == 200
    assert time.monotonic() - began < 20 * ten_tokens, (
        "the only slot was busy with 470 tokens nobody waits for"
    )


async def test_each_of_the_concurrent_requests_may_use_the_whole_context(tmp_path: Path) -> None:
    async with serving(tmp_path, make_spec(context_tokens=256, concurrency=2)) as served:
        await served.until("Ready")
        body = {"prompt": "a " * 190, "max_tokens": 30, "ignore_eos": True}
        answers = await asyncio.gather(*(served.post("/v1/completions", body) for _ in range(2)))
        assert [answer[1]["usage"]["completion_tokens"] for answer in answers] == [30, 30]


async def test_a_text_becomes_tokens_and_tokens_a_text(chat: Served) -> None:
    _, told = await chat.post("/tokenize", {"content": "hello world", "with_pieces": True})
    assert [token["piece"] for token in told["tokens"]] == ["hello", " world"]
    ids = [token["id"] for token in told["tokens"]]
    assert await chat.post("/detokenize", {"tokens": ids}) == (200, {"content": "hello world"})
    talk = {"model": "chat", "max_tokens": 1, "messages": [{"role": "user", "content": "hello world"}]}
    status, counted = await chat.post("/v1/messages/count_tokens", talk)
    assert status == 200
    assert counted["input_tokens"] > 2


async def test_it_tells_what_a_conversation_is_rendered_to(chat: Served) -> None:
    status, told = await chat.post("/apply-template", {"messages": [{"role": "user", "content": "Hi there"}]})
    assert status == 200
    assert "Hi there" in told["prompt"]


async def test_whatever_is_passed_on_asks_for_the_secret(chat: Served) -> None:
    async with aiohttp.ClientSession() as stranger:
        for path in (*PATHS[Task.GENERATE], "/plinth/state", "/slots", "/props"):
            for method in ("GET", "POST"):
                async with stranger.request(method, chat.base + path) as answer:
                    assert answer.status == 401, path
    async with chat.session.get(chat.base + "/slots") as answer:
        assert answer.status == 404


async def test_embeddings_come_from_an_embedding_replica_only(tmp_path: Path) -> None:
    spec = make_spec(task="Embed", args={"pooling-type": "mean"})
    async with serving(tmp_path, spec) as served:
        await served.until("Ready")
        status, answer = await served.post("/v1/embeddings", {"model": "chat", "input": ["one", "two"]})
        assert status == 200
        assert [len(item["embedding"]) for item in answer["data"]] == [576, 576]
        status, answer = await served.post("/v1/chat/completions", {"messages": []})
        assert status == 404
        assert answer["error"]["code"] == "unknown_path"


async def test_a_model_that_cannot_do_its_task_fails_with_the_engines_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, make_spec(task="Embed", args={"pooling-type": "none"})) as served:
        state = await served.until("Failed")
        assert "Pooling type 'none'" in state["message"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"n-bach": "512"}, "llama.cpp has no argument n-bach; the nearest is n-batch"),
        ({"n-batch": "many"}, "n-batch: invalid literal for int() with base 10: 'many'"),
        ({"warmup": "perhaps"}, "warmup must be true or false, not 'perhaps'"),
        ({"port": "80"}, "engine.args.port is set by Plinth; remove it"),
        (
            {"flash-attn-type": "maybe"},
            "flash-attn-type: must be one of auto, disabled, enabled, not 'maybe'",
        ),
    ],
)
async def test_an_argument_that_llama_cpp_does_not_take_is_named(
    tmp_path: Path, args: dict[str, str], message: str
) -> None:
    async with serving(tmp_path, make_spec(args=args)) as served:
        assert (await served.until("Failed"))["message"] == message


async def test_arguments_reach_llama_cpp(tmp_path: Path) -> None:
    args = {"n-batch": "256", "warmup": "false", "rope-freq-scale": "1.0", "flash-attn-type": "disabled"}
    async with serving(tmp_path, make_spec(args=args)) as served:
        await served.until("Ready")


async def test_a_ready_replica_tells_what_llama_cpp_allocated(tmp_path: Path) -> None:
    with stderr_in(tmp_path / "worker.err"):
        async with serving(tmp_path, make_spec(context_tokens=512, concurrency=2)) as served:
            state = await served.until("Ready")
    memory = state["figures"]["memory"]
    assert abs(memory["weights_bytes"] - 96_576_768) < 10_000  # of 272 tensors, as the file's header has them
    assert memory["kv_bytes"] == 1024 * 30 * 2 * 3 * 64 * 2
    assert memory["kv_tokens"] == 1024
    assert memory["overhead_bytes"] > 0
    assert 0 < state["start_milliseconds"] < 60_000
    planned = plan_smollm2(Engine.LLAMA_CPP, memory_bytes=1 << 30, context_tokens=512, concurrency=2)
    assert planned.weights_bytes == pytest.approx(memory["weights_bytes"], rel=TOLERANCE)
    assert planned.needed_kv_bytes == memory["kv_bytes"]


async def test_once_loaded_llama_cpp_is_as_quiet_as_before(tmp_path: Path) -> None:
    log = tmp_path / "worker.err"
    with stderr_in(log):
        async with serving(tmp_path, make_spec()) as served:
            await served.until("Ready")
            loaded = log.read_text()
            await served.post("/v1/completions", {"prompt": "Hi", "max_tokens": 2})
            assert log.read_text() == loaded


async def test_a_file_that_is_no_model_fails_with_llama_cpps_own_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a model")
    with stderr_in(tmp_path / "worker.err"):
        async with serving(tmp_path, make_spec(source=f"file://{broken}")) as served:
            state = await served.until("Failed")
    assert "Failed to init server" in state["message"]
    assert "gguf_init_from_reader: invalid magic characters: 'not ', expected 'GGUF'" in state["log_lines"][0]
    assert not any("exiting due to" in line for line in state["log_lines"])


async def test_a_llama_cpp_that_dies_is_reported_and_requests_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, make_spec()) as served:
        await served.until("Ready")
        os.kill(child_process(), signal.SIGABRT)
        state = await served.until("Failed", seconds=2)
        assert state["message"] == "llama.cpp was ended by SIGABRT"
        status, answer = await served.post("/v1/completions", {"prompt": "Hi"})
        assert (status, answer["error"]["code"]) == (503, "replica_not_ready")


async def test_closing_leaves_no_process_behind(tmp_path: Path) -> None:
    async with serving(tmp_path, make_spec()) as served:
        await served.until("Ready")
        pid = child_process()
    assert not Path(f"/proc/{pid}").exists()


def child_processes() -> list[int]:
    """The llama.cpp processes of this process's replicas, oldest first."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in children if b"llamacpp_server" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def child_process() -> int:
    return child_processes()[-1]
