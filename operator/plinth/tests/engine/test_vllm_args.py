from __future__ import annotations

from argparse import Action, ArgumentParser, BooleanOptionalAction
from pathlib import Path
from typing import Any

import pytest

from plinth.domain.fleet import Engine, ModelFormat
from plinth.engine.place import NodeRank
from plinth.engine.seam import EngineError, LocalModel
from plinth.engine.vllm_args import argument, make_arguments
from plinth.tests.engine.serving import make_spec

GIB = 1 << 30
MODEL = LocalModel(path=Path("/models/m"), format=ModelFormat.SAFETENSORS, weights_bytes=GIB)


def arguments(**changes: Any) -> list[str]:
    return make_arguments(make_spec(engine=Engine.VLLM, **changes), MODEL)


def known() -> dict[str, Action]:
    parser = ArgumentParser()
    parser.add_argument("--enforce-eager", action=BooleanOptionalAction)
    parser.add_argument("--disable-log-stats", action="store_true")
    parser.add_argument("--block-size", type=int)
    return parser._option_string_actions


def test_a_gpu_replica_is_told_its_share_and_keeps_its_workers_in_one_actor() -> None:
    assert arguments(threads=0, tensor_parallel=2, context_tokens=8192) == [
        "--model=/models/m",
        "--served-model-name",
        "chat",
        "team/chat",
        "--tensor-parallel-size=2",
        "--max-model-len=8192",
        "--distributed-executor-backend=mp",
        "--gpu-memory-utilization=0.9",
    ]


def test_stages_copies_and_spread_experts_are_told_and_stay_in_one_actor() -> None:
    told = arguments(tensor_parallel=2, pipeline_parallel=2)
    assert {"--tensor-parallel-size=2", "--pipeline-parallel-size=2"} <= set(told)
    assert not any("expert" in word or "data" in word for word in told)
    spread = arguments(data_parallel=4, expert_parallel=4)
    assert {"--data-parallel-size=4", "--enable-expert-parallel"} <= set(spread)
    assert all("--distributed-executor-backend=mp" in words for words in (told, spread))


def test_each_of_several_nodes_is_told_its_rank_and_only_the_first_answers_clients() -> None:
    spec = make_spec(engine=Engine.VLLM, tensor_parallel=2, pipeline_parallel=4)
    ranks = [NodeRank(nodes=2, rank=rank, address="10.0.0.1", port=29500) for rank in (0, 1)]
    first, second = (make_arguments(spec, MODEL, rank) for rank in ranks)
    assert {"--nnodes=2", "--node-rank=0", "--master-addr=10.0.0.1", "--master-port=29500"} <= set(first)
    assert set(second) ^ set(first) == {"--node-rank=0", "--node-rank=1", "--headless"}
    assert "--headless" in second


@pytest.mark.parametrize("shape", [{"pipeline_parallel": 3}, {"pipeline_parallel": 2, "data_parallel": 2}])
def test_a_shape_that_does_not_divide_over_its_nodes_is_refused(shape: dict[str, int]) -> None:
    rank = NodeRank(nodes=2, rank=0, address="10.0.0.1", port=29500)
    with pytest.raises(EngineError, match="whole pipeline stages"):
        make_arguments(make_spec(engine=Engine.VLLM, **shape), MODEL, rank)


def test_on_the_cpu_the_kv_cache_is_what_weights_and_overhead_leave() -> None:
    assert f"--kv-cache-memory-bytes={2 * GIB}" in arguments(threads=2, memory_bytes=5 * GIB)
    assert f"--kv-cache-memory-bytes={GIB // 4}" in arguments(threads=2, memory_bytes=GIB)


def test_vllms_own_limit_of_sequences_is_only_ever_raised() -> None:
    assert not any("max-num-seqs" in text for text in arguments(concurrency=256))
    assert "--max-num-seqs=300" in arguments(concurrency=300)


def test_other_tasks_run_as_pooling_models() -> None:
    assert "--runner=pooling" in arguments(task="Embed")
    assert "--runner=pooling" in arguments(task="Rerank")
    assert "--runner=pooling" not in arguments()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("enforce-eager", "true", ["--enforce-eager"]),
        ("enforce-eager", "false", ["--no-enforce-eager"]),
        ("disable-log-stats", "True", ["--disable-log-stats"]),
        ("disable-log-stats", "false", []),
        ("block-size", "32", ["--block-size=32"]),
    ],
)
def test_an_argument_becomes_words_of_the_command_line(name: str, text: str, words: list[str]) -> None:
    assert argument(known(), name, text) == words


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("enforce-eagre", "true", "vLLM has no argument enforce-eagre; the nearest is enforce-eager"),
        ("enforce-eager", "yes", "enforce-eager must be true or false, not 'yes'"),
        ("port", "80", "engine.args.port is set by Plinth; remove it"),
    ],
)
def test_an_argument_that_vllm_does_not_take_is_named(name: str, text: str, message: str) -> None:
    with pytest.raises(EngineError) as refused:
        argument(known(), name, text)
    assert str(refused.value) == message
