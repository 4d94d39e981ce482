"""The measuring program's reading, order and schedule; the measuring itself needs accelerators (or `--rehearse`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import planner_engine
import planner_measure
from engine_log import read_figures, read_lines, without_machine
from planner_case import FOLDER, Case, Level, Use, is_unpacked, read_cases, vocabulary_of, write_model_folder
from planner_engine import Run, compact, make_setup
from planner_prediction import MEASURED
from serving_stacks import BareVllm, StackFailedError, engine_arguments

START_OF_TP2 = """\
(EngineCore pid=321) INFO 11-22 07:00:01 [core.py:112] Initializing a V1 LLM engine (v0.25.1) with config: model='/m'
(Worker_TP0 pid=41) INFO 11-22 07:00:20 [gpu_model_runner.py:5306] Model loading took 29.73 GiB memory and 8.512345 seconds
(Worker_TP1 pid=42) INFO 11-22 07:00:20 [gpu_model_runner.py:5306] Model loading took 29.73 GiB memory and 8.498000 seconds
(Worker_TP0 pid=41) INFO 11-22 07:00:50 [monitor.py:54] torch.compile took 21.37 s in total
(Worker_TP0 pid=41) DEBUG 11-22 07:01:00 [gpu_worker.py:526] Initial free memory: 139.21 GiB; Requested memory: 0.900000 (util), 125.83 GiB
(Worker_TP0 pid=41) DEBUG 11-22 07:01:00 [gpu_worker.py:532] Free memory after profiling: 107.01 GiB (total), 93.63 GiB (within requested)
(Worker_TP0 pid=41) DEBUG 11-22 07:01:00 [gpu_worker.py:537] Memory profiling takes 9.10 seconds. Total non KV cache memory: 32.10GiB; torch peak memory increase: 1.21GiB; non-torch forward increase memory: 1.16GiB; weights memory: 29.73GiB.
(Worker_TP0 pid=41) INFO 11-22 07:01:00 [gpu_worker.py:538] Available KV cache memory: 93.41 GiB
(EngineCore pid=321) INFO 11-22 07:01:01 [kv_cache_utils.py:2146] GPU KV cache size: 765,216 tokens
(EngineCore pid=321) INFO 11-22 07:01:01 [kv_cache_utils.py:2147] Maximum concurrency for 8,192 tokens per request: 93.41x
(Worker_TP0 pid=41) INFO 11-22 07:01:12 [gpu_model_runner.py:6707] Graph capturing finished in 9 secs, took 0.83 GiB
(Worker_TP0 pid=41) INFO 11-22 07:01:12 [gpu_worker.py:771] CUDA graph pool memory: 0.83 GiB (actual), 0.32 GiB (estimated), difference: 0.51 GiB (61.4%).
(Worker_TP0 pid=41) DEBUG 11-22 07:01:12 [gpu_worker.py:835] Free memory on device (139.21/139.81 GiB) on startup. Desired GPU memory utilization is (0.9, 125.83 GiB). Actual usage is 29.73 GiB for weight, 1.21 GiB for peak activation, 1.16 GiB for non-torch memory, and 0.83 GiB for CUDAGraph memory. Replace gpu_memory_utilization config with `--kv-cache-memory=99594000000` (92.75 GiB) to fit into requested memory, or `--kv-cache-memory=114000000000` (106.17 GiB) to fully utilize gpu memory. Current kv cache memory in use is 93.41 GiB.
(EngineCore pid=321) INFO 11-22 07:01:13 [core.py:337] init engine (profile, create kv cache, warmup model) took 51.02 s (compilation: 21.37 s)
"""


ROOT = Path(__file__).parents[2]
SENTENCES = {
    "v1/worker/gpu_worker.py": [
        "Initial free memory: %s GiB; Requested memory: %f (util), %s GiB",
        "Free memory after profiling: %s GiB (total), %s GiB (within requested)",
        "Available KV cache memory: %s GiB",
        "CUDA graph pool memory: %s GiB (actual), %s GiB (estimated)",
        "Free memory on device ",
        "config with `--kv-cache-memory=",
    ],
    "v1/worker/gpu_model_runner.py": [
        "Model loading took %s GiB memory and %.6f seconds",
        "Graph capturing finished in %.0f secs, took %.2f GiB",
    ],
    "v1/worker/gpu/model_runner.py": [
        "Model loading took %s GiB and %.6f seconds",
        "Graph capturing finished in %.0f secs, took %.2f GiB",
    ],
    "utils/mem_utils.py": [
        "Memory profiling takes {self.profile_time:.2f} seconds",
        "Total non KV cache memory: ",
        "torch peak memory increase: ",
        "non-torch forward increase memory: ",
    ],
    "v1/core/kv_cache_utils.py": [
        "GPU KV cache size: %s tokens",
        "Maximum concurrency for %s tokens per request: %.2fx",
    ],
    "v1/engine/core.py": ["init engine (profile, create kv cache, warmup model) took %.2f s"],
    "compilation/monitor.py": ["torch.compile took %.2f s in total"],
    "config/scheduler.py": ["Chunked prefill is enabled with max_num_batched_tokens=%d."],
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(place=tmp_path, deadline=time.monotonic() + 1000)


def make_case(name: str = "toy", **changed: object) -> Case:
    base = read_cases(FOLDER / "rehearsal.yaml")[0]
    return Case(**{**{key: getattr(base, key) for key in base.__dataclass_fields__}, "name": name, **changed})


def put_record(run: Run, case: Case, state: str, attempts: int = 1) -> None:
    path = run.record_path(case)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"state": state, "attempts": attempts}))


def test_a_start_s_figures_are_read_from_the_engine_s_own_sentences() -> None:
    assert read_figures(START_OF_TP2) == {
        "weights_gib": [29.73, 29.73],
        "loading_seconds": [8.512345, 8.498],
        "free_before_gib": [139.21],
        "requested_gib": [125.83],
        "total_gib": [139.81],
        "free_after_profiling_gib": [107.01],
        "profiling_seconds": [9.1],
        "not_kv_gib": [32.1],
        "activation_gib": [1.21],
        "not_torch_gib": [1.16],
        "kv_gib": [93.41],
        "kv_tokens": [765216],
        "full_contexts": [93.41],
        "graphs_gib": [0.83],
        "graphs_estimated_gib": [0.32],
        "graphs_seconds": [9.0],
        "graphs_captured_gib": [0.83],
        "kv_bytes_that_fit_requested": [99594000000],
        "compile_seconds": [21.37],
        "init_seconds": [51.02],
    }


def test_the_second_model_runner_says_the_weights_without_the_word_memory() -> None:
    log = "INFO [model_runner.py:302] Model loading took 14.27 GiB and 3.100000 seconds"
    assert read_figures(log) == {"weights_gib": [14.27], "loading_seconds": [3.1]}


@pytest.mark.vllm
def test_the_installed_vllm_still_says_these_sentences() -> None:
    package = next((ROOT / ".venv-vllm" / "lib").glob("python3*/site-packages/vllm"))
    for file, sentences in SENTENCES.items():
        source = (package / file).read_text()
        assert [sentence for sentence in sentences if sentence not in source] == [], file


def test_of_two_starts_in_one_log_the_last_one_counts() -> None:
    second = START_OF_TP2.replace("29.73", "30.00")
    assert read_figures(START_OF_TP2 + second)["weights_gib"] == [30.0, 30.0]


def test_a_log_without_a_start_has_no_figures() -> None:
    assert read_figures("Traceback (most recent call last):\nValueError: no") == {}


def test_the_lines_behind_the_figures_are_kept_with_those_that_name_the_kernels() -> None:
    kernels = "INFO [cuda.py:340] Using FLASH_ATTN attention backend out of potential backends"
    kept = read_lines(f"{START_OF_TP2}{kernels}\nINFO 127.0.0.1 - GET /health 200\n")
    assert kept[-1] == kernels
    assert len(kept) == len(START_OF_TP2.splitlines()) + 1


@pytest.mark.parametrize("file", ["cases.yaml", "rehearsal.yaml"])
def test_every_case_can_be_read_and_its_loads_fit_its_context(file: str) -> None:
    for case in read_cases(FOLDER / file):
        assert all(level.input_tokens + level.output_tokens <= case.context_tokens for level in case.loads)
        assert all(level.requests % level.users == 0 for level in case.loads), (
            "whole rounds, or the end is idle"
        )


def test_there_are_eight_cases_and_more_for_each_use_and_both_numbers_of_accelerators() -> None:
    cases = read_cases(FOLDER / "cases.yaml")
    assert len([case for case in cases if case.loads]) >= 8
    assert {(case.use, case.tensor) for case in cases} == {(use, tensor) for use in Use for tensor in (1, 2)}


def test_no_model_s_shape_is_only_in_calibration() -> None:
    cases = read_cases(FOLDER / "cases.yaml")
    held_out = [case for case in cases if case.use is Use.HELD_OUT]
    assert len(held_out) >= len(cases) / 2


def test_neighbours_never_compile_the_same_thing_at_once() -> None:
    alone = [case for case in read_cases(FOLDER / "cases.yaml") if case.tensor == 1]
    assert all(one.model != other.model for one, other in pairwise(alone))


def test_the_first_nine_cases_which_the_planner_must_be_judged_by_fit_the_default_budget() -> None:
    busy = [0.0, 0.0]
    for case in read_cases(FOLDER / "cases.yaml")[:9]:
        seconds = case.start_seconds + sum(level.seconds for level in case.loads) + 15
        if case.tensor == 2:
            busy = [max(busy) + seconds] * 2
        else:
            busy[busy.index(min(busy))] += seconds
    assert max(busy) <= planner_measure.BUDGET_SECONDS


def test_a_model_folder_has_the_public_shape_and_a_tokenizer_of_its_vocabulary(tmp_path: Path) -> None:
    case = next(each for each in read_cases(FOLDER / "cases.yaml") if each.model == "llama-3.1-8b")
    folder = write_model_folder(tmp_path, case)
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 4096
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert len(words) == vocabulary_of(case) == 128256


def test_the_engine_gets_the_words_that_plinth_gives_it_and_the_case_s_own(run: Run) -> None:
    case = next(each for each in read_cases(FOLDER / "cases.yaml") if "kv-cache-dtype" in each.args)
    words = engine_arguments(make_setup(run, case, ["1"]))
    assert {"--gpu-memory-utilization=0.9", "--kv-cache-dtype=fp8", "--load-format=dummy"} <= set(words)
    assert "--max-num-seqs" not in " ".join(words)


def test_a_request_is_kept_as_seconds_since_the_first_was_sent() -> None:
    outcomes = [
        {"started": 10.5, "first": 10.75, "last": 12.0, "tokens": 8},
        {"started": 10.0, "first": 10.25, "last": 11.0, "tokens": 8},
    ]
    assert compact(outcomes) == [[0.0, 0.25, 1.0, 8], [0.5, 0.75, 2.0, 8]]


def test_a_later_call_goes_on_where_the_last_one_ended(run: Run) -> None:
    cases = [make_case(name) for name in ("failed", "done", "hopeless", "cut", "new")]
    for case, state, attempts in zip(cases, ("failed", "done", "failed", "cut"), (1, 1, 2, 1), strict=False):
        put_record(run, case, state, attempts)
    assert [case.name for case in planner_measure.order(run, cases, 2)] == ["new", "cut", "failed"]


def test_a_case_for_more_accelerators_than_there_are_is_left_out_and_named(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planner_measure.order(run, [make_case("wide", tensor=2)], 1) == []
    assert "wide: left out" in capsys.readouterr().err


def test_single_accelerator_cases_run_beside_each_other_and_a_wide_one_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside: dict[str, set[str]] = {}
    taken: dict[str, list[str]] = {}

    def measured(run: Run, case: Case, devices: list[str]) -> None:
        run.busy[case.name] = "measured"
        taken[case.name] = sorted(devices)
        until = time.monotonic() + (5.0 if case.tensor == 1 else 0.05)
        while time.monotonic() < until and len(beside.get(case.name, ())) < 3 - case.tensor:
            beside[case.name] = beside.get(case.name, set()) | set(run.busy)
            time.sleep(0.001)
        put_record(run, case, "done")
        time.sleep(0.05)
        del run.busy[case.name]

    monkeypatch.setattr(planner_measure, "measure_case", measured)
    monkeypatch.setattr(planner_measure, "STAGGER_SECONDS", 0.0)
    monkeypatch.setattr(planner_measure, "_POLL_SECONDS", 0.001)
    cases = [make_case("wide", tensor=2), make_case("a"), make_case("b"), make_case("wide again", tensor=2)]
    planner_measure.measure(run, cases, ["0", "1"])
    assert beside == {"wide": {"wide"}, "a": {"a", "b"}, "b": {"a", "b"}, "wide again": {"wide again"}}
    assert taken["wide"] == taken["wide again"] == ["0", "1"]
    assert sorted([*taken["a"], *taken["b"]]) == ["0", "1"]


def test_a_case_that_failed_is_tried_once_more_after_all_others(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def measured(run: Run, case: Case, _: list[str]) -> None:
        tried.append(case.name)
        put_record(run, case, "failed" if case.name == "bad" else "done", tried.count(case.name))

    monkeypatch.setattr(planner_measure, "measure_case", measured)
    monkeypatch.setattr(planner_measure, "STAGGER_SECONDS", 0.0)
    monkeypatch.setattr(planner_measure, "_POLL_SECONDS", 0.001)
    planner_measure.measure(run, [make_case("bad"), make_case("good"), make_case("better")], ["0"])
    assert tried == ["bad", "good", "better", "bad"]


def test_a_case_for_which_no_time_is_left_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(place=tmp_path, deadline=time.monotonic() + 30)
    monkeypatch.setattr(planner_measure, "measure_case", lambda *_: pytest.fail("it was started"))
    monkeypatch.setattr(planner_measure, "_POLL_SECONDS", 0.001)
    planner_measure.measure(run, [make_case(start_seconds=40.0)], ["0"])
    assert "toy: skipped" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "state"), [(1000, "failed"), (-1, "cut")])
def test_an_engine_that_fails_has_failed_but_at_the_run_s_end_it_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, state: str
) -> None:
    run = Run(place=tmp_path, deadline=time.monotonic() + seconds)

    class Ended(BareVllm):
        def start(self) -> None:
            raise StackFailedError("ended with 1")

    monkeypatch.setattr(planner_engine, "BareVllm", Ended)
    planner_engine.measure_case(run, make_case(), [""])
    record = run.read_record(make_case())
    assert (record["state"], record["attempts"], record["loads"]) == (state, 1, [])
    assert "ended with 1" in str(record["why"])


def test_what_comes_back_is_few_files(tmp_path: Path) -> None:
    place = tmp_path / "place"
    for path in ("cases/a.json", "cases/b.json", "logs/a.1.log.gz", "engines/a/vllm.log", "driver.log"):
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(path)
    out = tmp_path / "out"
    planner_measure.archive(place, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "cases.tar.gz",
        "driver.log",
        "engine-tails.txt",
        "logs.tar.gz",
    ]
    with tarfile.open(out / "cases.tar.gz") as packed:
        assert packed.getnames() == ["cases/a.json", "cases/b.json"]


def test_a_driver_that_has_ended_is_not_taken_for_one_that_goes_on(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    assert not planner_measure.is_alive(pid_file)
    pid_file.write_text(str(os.getpid()))
    assert planner_measure.is_alive(pid_file)
    with subprocess.Popen(["true"]) as ended:
        time.sleep(0.2)
        pid_file.write_text(str(ended.pid))
        assert not planner_measure.is_alive(pid_file), "a zombie"


def test_users_are_spread_over_load_processes() -> None:
    level = Level(users=128, requests=256, input_tokens=1, output_tokens=1, seconds=1)
    assert level.processes == 2


def test_lines_are_kept_without_what_belongs_to_the_machine() -> None:
    said = (
        "(Worker_TP0 pid=41) INFO [fused_moe.py:1] Using configuration from /opt/a-b/x_1/E=128,N=768.json for MoE",
        "INFO backend model='/home/me/models/qwen', HOME=/srv/k, tcp://10.1.2.3:51087 backend=nccl, 1.5/139.8 GiB",
    )
    assert read_lines("\n".join(said)) == [
        "(Worker_TP0) INFO [fused_moe.py:1] Using configuration from E=128,N=768.json for MoE",
        "INFO backend model='qwen', HOME=k, tcp://HOST backend=nccl, 1.5/139.8 GiB",
    ]


def test_kept_records_hold_nothing_of_the_machine_they_were_made_on() -> None:
    for path in sorted(MEASURED.glob("*.json")):
        record = json.loads(path.read_text())
        for text in (record["why"], *record["engine_lines"]):
            assert without_machine(text) == text, path.name
        assert not any("_bucket" in name for load in record["loads"] for name in load["metrics"])


@pytest.mark.parametrize("name", ["qwen2.5-32b-fp8-tp1", "qwen2.5-32b-gptq-tp1", "qwen2.5-7b-awq-tp1"])
def test_a_quantised_case_that_loads_at_full_width_is_refused(name: str) -> None:
    case = next(each for each in read_cases(FOLDER / "cases.yaml") if each.name == name)
    full = 15.2e9 if "7b" in name else 65.5e9
    assert is_unpacked(case, full)
    assert not is_unpacked(case, 0.55 * full)
    plain = {key: value for key, value in case.config.items() if key != "quantization_config"}
    assert not is_unpacked(replace(case, config=plain), full)


def test_a_refused_case_has_failed_and_says_why(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(each for each in read_cases(FOLDER / "cases.yaml") if "gptq" in each.name)
    monkeypatch.setattr(BareVllm, "start", lambda _self: None)
    monkeypatch.setattr(BareVllm, "read_logs", lambda _self: START_OF_TP2)
    monkeypatch.setattr(planner_engine, "wait_until_ready", lambda *_: None)
    monkeypatch.setattr(planner_engine, "read_metrics", lambda _url: {})
    planner_engine.measure_case(run, case, ["0"])
    record = run.read_record(case)
    assert (record["state"], record["loads"]) == ("failed", [])
    assert "full width" in str(record["why"])


def test_gptq_s_layers_are_named_for_an_engine_that_has_no_checkpoint_to_ask() -> None:
    for case in read_cases(FOLDER / "cases.yaml"):
        quantization = case.config.get("quantization_config")
        if isinstance(quantization, dict) and quantization["quant_method"] == "gptq":
            assert "mlp.down_proj" in quantization["modules_in_block_to_quantize"]


def test_every_case_meets_each_of_its_loads_before_it_is_measured() -> None:
    for case in read_cases(FOLDER / "cases.yaml"):
        prompts = [(each.users, each.input_tokens) for each in planner_engine.warm_ups(case)]
        assert prompts[:5] == [(1, 1024), (1, 1536), (1, 2048), (1, 3072), (1, 4096)]
        assert prompts[5:] == [(each.users, each.input_tokens) for each in case.loads]
    (toy,) = [planner_engine.warm_ups(case) for case in read_cases(FOLDER / "rehearsal.yaml") if case.loads]
    assert [(each.users, each.input_tokens) for each in toy] == [(1, 32), (4, 32)]


def test_the_command_s_words_reach_the_measuring_by_way_of_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked of the call that waits is asked of the run that it starts."""
    started: list[list[str]] = []
    measured: list[tuple[bool, list[str], list[str]]] = []

    def measure(run: Run, cases: Sequence[Case], devices: Sequence[str]) -> None:
        measured.append((run.in_turn, [case.name for case in cases], list(devices)))

    monkeypatch.setattr(planner_measure, "start_in_background", lambda _, words: started.append(list(words)))
    monkeypatch.setattr(planner_measure, "measure", measure)
    monkeypatch.setattr(os, "_exit", lambda _: None)
    (tmp_path / "driver.log").touch()
    words = ["--place", str(tmp_path), "--only=qwen2.5-7b-tp1", "--in-turn", "--devices=2,3"]
    monkeypatch.setattr("sys.argv", ["planner_measure.py", *words, "--wait-seconds=0"])
    planner_measure.main()
    monkeypatch.setattr("sys.argv", ["planner_measure.py", *started[0]])
    planner_measure.main()
    assert measured == [(True, ["qwen2.5-7b-tp1"], ["2", "3"])]


def test_in_turn_no_engine_starts_while_another_is_under_load(tmp_path: Path) -> None:
    run = Run(place=tmp_path, deadline=time.monotonic() + 1000, in_turn=True)
    starting = threading.Thread(target=run.begin_start, args=("next",), daemon=True)
    with run.turn():
        starting.start()
        starting.join(timeout=0.2)
        assert run.busy == {}
    starting.join(timeout=10)
    assert run.busy == {"next": "starting"}


def test_out_of_turn_engines_start_at_any_time(run: Run) -> None:
    with run.turn():
        run.begin_start("next")
    assert run.busy == {"next": "starting"}
