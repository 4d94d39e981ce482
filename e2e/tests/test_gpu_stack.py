"""The comparison's arithmetic and its schedule; the comparison itself needs GPUs (or `gpu_stack.py --rehearse`)."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from gpu_schedule import BARE, PLINTH, Phase, gpu_profile
from gpu_stack import Journal, make_records, make_setup, pair_up
from serving_stacks import differing, engine_arguments, fleet, read_engine_config
from synthetic_model import QWEN2_5_32B, TINY, make_tokenizer, write_model

from plinth.api.v1alpha1 import GPUPool, ModelDeployment
from plinth.cluster.artifacts import read_artifact
from plinth.domain.fleet import Artifact, LoadWindow, Model, ModelKey, Node
from plinth.domain.naming import ServedNames
from plinth.domain.pool_choice import choose_target
from plinth.domain.pools import resolve_pools
from plinth.domain.targets import Target
from plinth.engine.local_sources import SourcePlaces


def run(stack: str, repeat: int, tokens_per_second: float, ttft: float, **changed: Any) -> dict[str, object]:
    figures = {
        "output_tokens_per_second": tokens_per_second,
        "ttft_ms": {"p99": ttft},
        "failed": 0,
        "truncated": 0,
    }
    where = {"phase": "TP2", "tensor": 2, "users": 40, "devices": "0,1"}
    return {**where, "stack": stack, "repeat": repeat, **figures, **changed}


def test_the_ratio_is_the_median_over_the_repeats() -> None:
    measured = []
    for repeat, (ours, theirs) in enumerate([(99, 100), (90, 100), (98, 100)], start=1):
        measured += [run(PLINTH, repeat, ours, 102), run(BARE, repeat, theirs, 100)]
    throughput, ttft = make_records(measured, {})
    assert (throughput.metric, throughput.value, throughput.met) == (
        "stack_throughput_ratio_to_vllm",
        0.98,
        True,
    )
    assert (ttft.metric, ttft.value, ttft.met) == ("stack_ttft_p99_ratio_to_vllm", 1.02, True)
    assert throughput.peers["ratios"] == [0.99, 0.9, 0.98]
    assert throughput.peers["runs"] == measured


def test_after_the_swap_runs_on_the_same_gpu_are_compared() -> None:
    measured = [
        run(PLINTH, 1, 90, 1, devices="1", phase="TP1"),
        run(BARE, 1, 100, 1, devices="0", phase="TP1"),
        run(PLINTH, 1, 98, 1, devices="0", phase="TP1 swapped"),
        run(BARE, 1, 90, 1, devices="1", phase="TP1 swapped"),
    ]
    assert [(one["devices"], other["devices"]) for one, other in pair_up(measured)] == [
        ("1", "1"),
        ("0", "0"),
    ]
    assert make_records(measured, {})[0].peers["ratios"] == [1.0, 0.98]


def test_without_a_run_on_the_same_gpu_the_record_says_so() -> None:
    measured = [run(PLINTH, 1, 99, 1, devices="1"), run(BARE, 1, 100, 1, devices="0")]
    record = make_records(measured, {})[0]
    assert (record.value, record.peers["same_gpus"]) == (0.99, False)


def test_a_pair_with_a_failed_request_has_no_ratio_and_misses_the_goal() -> None:
    record = make_records([run(PLINTH, 1, 99, 1, failed=1), run(BARE, 1, 100, 1)], {})[0]
    assert (record.value, record.met) == (None, False)


def test_what_was_measured_is_on_disk_at_once(tmp_path: Path) -> None:
    journal = Journal(place=tmp_path, deadline=time.monotonic() + 60, profile=gpu_profile())
    journal.note(run(PLINTH, 1, 99, 1))
    assert json.loads((tmp_path / "measurements.jsonl").read_text())["stack"] == PLINTH


def test_a_step_that_would_end_too_late_is_skipped_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(place=tmp_path, deadline=time.monotonic() + 60, profile=gpu_profile())
    assert journal.affords(30, "this")
    assert not journal.affords(90, "that")
    assert "skipped that" in capsys.readouterr().err


def test_the_schedule_fits_the_default_budget() -> None:
    profile = gpu_profile()
    assert sum(phase.start_seconds + phase.repeats * phase.repeat_seconds for phase in profile.phases) < 1380


@pytest.mark.parametrize("phase", gpu_profile().phases, ids=lambda phase: str(phase.name))
def test_the_planner_accepts_every_phase_on_two_gpus_of_140_gib(phase: Phase, tmp_path: Path) -> None:
    artifact = read_artifact(f"file://{write_model(tmp_path, QWEN2_5_32B)}", None, places=SourcePlaces())
    assert isinstance(artifact, Artifact)
    setup = make_setup(gpu_profile(), phase, tmp_path, PLINTH)
    documents = fleet(setup)
    pool = GPUPool.model_validate(documents[0])
    model = ModelDeployment.model_validate(documents[1])
    node = Node(
        node_id="n",
        address="127.0.0.1",
        labels={},
        cpus=32,
        memory_bytes=1,
        accelerator="H200",
        accelerators=len(setup.devices.split(",")),
        accelerator_memory_bytes=143771 << 20,
    )
    asked = Model(
        key=ModelKey("default", setup.served_name),
        resource=model,
        first_seen=0.0,
        artifact=artifact,
        answered_revision="",
        window=LoadWindow(),
        failure=None,
    )
    names = ServedNames(names=(setup.served_name,))
    target = choose_target(asked, names=names, pools=resolve_pools((pool,), (node,)), slots=())
    assert isinstance(target, Target), target
    assert target.needs.accelerators == phase.tensor
    assert artifact.weights_bytes >> 20 == 60482  # 59.06 GiB, as vLLM measured


def test_bare_vllm_gets_the_words_that_plinth_gives_it() -> None:
    first, apart, _ = gpu_profile().phases
    words = engine_arguments(make_setup(gpu_profile(), first, Path("/m"), BARE))
    assert {"--tensor-parallel-size=2", "--distributed-executor-backend=mp", "--load-format=dummy"} <= set(
        words
    )
    assert "--gpu-memory-utilization=0.92" in engine_arguments(
        make_setup(gpu_profile(), apart, Path("/m"), BARE)
    )


def test_engine_configurations_are_read_from_logs_and_compared() -> None:
    line = "(EngineCore pid=1) INFO Initializing a V1 LLM engine (v0.25.1) with config: model='/m', dtype={}, seed=0\n"
    kv = "GPU KV cache size: 271,234 tokens\n"
    ours, theirs = read_engine_config(line.format("bf16") + kv), read_engine_config(line.format("fp8") + kv)
    assert ours == {"model": "'/m'", "dtype": "bf16", "seed": "0", "kv_cache_tokens": "271234"}
    assert differing(ours, theirs) == {"dtype": ["bf16", "fp8"]}
    assert read_engine_config("nothing of that kind") == {}


def test_the_made_up_tokenizer_has_every_byte_once_and_the_whole_vocabulary() -> None:
    model = make_tokenizer(TINY.vocabulary)["model"]
    assert isinstance(model, dict)
    vocabulary = model["vocab"]
    assert sorted(vocabulary.values()) == list(range(TINY.vocabulary))
    assert len({word for word, index in vocabulary.items() if 1 <= index <= 256}) == 256
