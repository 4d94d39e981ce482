"""One case of `planner_measure.py`, from an engine's start to its end: what it says of itself, and how it serves.

The record is written after every step, so that a run that is cut leaves what it has.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from accelerator_state import accelerators, machine, wait_for_free
from engine_log import LOGGING, read_figures, read_lines, without_machine
from planner_case import Case, Level, is_unpacked, vocabulary_of, write_model_folder
from serving_stacks import BareVllm, Setup, StackFailedError, engine_arguments, wait_until_ready

SERVED_NAME = "bench"
READY_SECONDS = 200.0
"""A start that takes longer hangs."""
WARM_UP = Level(users=1, requests=1, input_tokens=512, output_tokens=24, seconds=4)
WARM_UP_PROMPTS = (1024, 1536, 2048, 3072, 4096)
"""Steps larger than all CUDA graphs for which a fused product of experts has a kernel of its own: the sizes of vLLM's
tuned configurations (fused_moe/configs). Each is compiled at first use, which would be measured."""
_LEVEL_SLACK_SECONDS = 25.0
_KEPT_LOG_BYTES = 400_000
ENVIRONMENT: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "PYTHONUNBUFFERED": "1",
    # NVLink multicast can put a shared host's accelerators out of service; nothing here may use it.
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "NVSHMEM_DISABLE_NVLS": "1",
    "VLLM_ALLREDUCE_USE_SYMM_MEM": "0",
    # It compiles at first use, with headers that a machine without a network may lack. No case here needs it.
    "VLLM_USE_DEEP_GEMM": "0",
}


@dataclass(kw_only=True)
class Run:
    """Where a run keeps its files, until when it goes on, and what else is going on."""

    place: Path
    deadline: float
    """Of the monotonic clock."""
    busy: dict[str, str] = field(default_factory=dict)
    """What each case that is under way does now: engines on one machine can disturb each other."""
    started: float = field(default_factory=time.monotonic)
    in_turn: bool = False
    """Whether loads wait until no engine starts and no other load runs: slower, and nothing disturbs."""
    _turn: threading.Lock = field(default_factory=threading.Lock)
    """Held by whoever puts load on an engine."""

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn to put load on an engine."""
        if not self.in_turn:
            yield
            return
        with self._turn:
            while "starting" in list(self.busy.values()) and self.remaining() > 0:
                time.sleep(1)
            yield

    def begin_start(self, name: str) -> None:
        """An engine starts from now on; in turn, as soon as no load runs."""
        with self._turn if self.in_turn else contextlib.nullcontext():
            self.busy[name] = "starting"

    def remaining(self) -> float:
        """Seconds until the end of the run."""
        return self.deadline - time.monotonic()

    def say(self, text: str) -> None:
        """A line of progress, with the seconds since the start."""
        print(f"[{time.monotonic() - self.started:6.1f}] {text}", file=sys.stderr, flush=True)

    def record_path(self, case: Case) -> Path:
        """Where a case's figures stand."""
        return self.place / "cases" / f"{case.name}.json"

    def read_record(self, case: Case) -> dict[str, object]:
        """What an earlier attempt wrote; empty where there was none, or none that was whole."""
        try:
            found: dict[str, object] = json.loads(self.record_path(case).read_text())
        except (OSError, ValueError):
            return {}
        return found


def measure_case(run: Run, case: Case, devices: Sequence[str]) -> None:
    """Start the engine, put its loads on it, end it. Whatever goes wrong is in the record, and nothing is raised."""
    attempts = int(str(run.read_record(case).get("attempts", 0))) + 1
    setup = make_setup(run, case, devices)
    stack = BareVllm(setup, run.place / "engines" / case.name)
    record: dict[str, object] = {
        "case": asdict(case),
        "state": "cut",
        "why": "",
        "attempts": attempts,
        "began": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "devices": setup.devices,
        "arguments": engine_arguments(setup),
        "environment": {key: value for key, value in setup.environment.items() if not value.startswith("/")},
        "machine": machine(),
        "accelerators_before": accelerators(),
        "loads": [],
    }
    try:
        _start(run, case, stack, record)
        with run.turn():
            _load(run, case, stack, record)
        record["state"] = "done" if len(_loads(record)) == len(case.loads) else "cut"
    except Exception as error:  # noqa: BLE001 - the frame of a thread: one case must not end the others
        state = "failed" if run.remaining() > 0 else "cut"
        record.update(state=state, why=without_machine(f"{type(error).__name__}: {error}")[-3000:])
        run.say(f"{case.name}: {state.upper()}: {record['why']}"[:600])
    finally:
        run.busy[case.name] = "ending"
        with contextlib.suppress(Exception):
            _keep_log(run, case, stack, record)
        _write(run, case, record)
        with contextlib.suppress(Exception):
            stack.stop()
            wait_for_free(devices)
        run.busy.pop(case.name, None)
        run.say(f"{case.name}: {record['state']}, ended")


def make_setup(run: Run, case: Case, devices: Sequence[str]) -> Setup:
    """What the engine is told: what Plinth would tell it, and the case's own arguments."""
    logging = run.place / "logging.json"
    logging.write_text(json.dumps(LOGGING))
    return Setup(
        model=write_model_folder(run.place / "models" / case.name, case),
        served_name=SERVED_NAME,
        tensor=case.tensor,
        devices=",".join(filter(None, devices)),
        utilization_percent=case.utilization_percent,
        context_tokens=case.context_tokens,
        concurrency=1,  # vLLM's own default of sequences
        args=case.args,
        environment={
            **ENVIRONMENT,
            "VLLM_LOGGING_CONFIG_PATH": str(logging),
            "VLLM_CACHE_ROOT": str(run.place / "cache" / "vllm"),
            "TRITON_CACHE_DIR": str(run.place / "cache" / "triton"),
            **case.environment,
        },
    )


def _start(run: Run, case: Case, stack: BareVllm, record: dict[str, object]) -> None:
    run.begin_start(case.name)
    run.say(f"{case.name}: starts on {record['devices'] or 'the CPU'}, attempt {record['attempts']}")
    began = time.monotonic()
    stack.start()
    wait_until_ready(stack, began + min(READY_SECONDS, run.remaining()))
    record["start_seconds"] = round(time.monotonic() - began, 2)
    log = stack.read_logs()
    figures = read_figures(log)
    record["engine"] = figures
    record["engine_lines"] = read_lines(log)
    record["accelerators_ready"] = accelerators()
    record["metrics_ready"] = read_metrics(stack.url)
    run.busy[case.name] = "ready"
    _write(run, case, record)
    run.say(f"{case.name}: ready after {record['start_seconds']} s: {figures}")
    if is_unpacked(case, sum(figures.get("weights_gib", ())) * 2**30):
        raise StackFailedError("the model is quantised and its weights were loaded at full width")


def _load(run: Run, case: Case, stack: BareVllm, record: dict[str, object]) -> None:
    if case.loads:
        for seed, warm_up in enumerate(warm_ups(case), start=1):
            run_level(run, case, stack, warm_up, seed=seed)
    for index, level in enumerate(case.loads):
        if run.remaining() < level.seconds:
            run.say(f"{case.name}: skipped {level}: {run.remaining():.0f} s are left")
            continue
        run.busy[case.name] = f"{level.users} users"
        beside = _others(run, case)
        figures = run_level(run, case, stack, level, seed=1000 * (index + 1) + int(str(record["attempts"])))
        figures |= {
            "beside": sorted({*beside, *_others(run, case)}),
            "accelerators": accelerators(),
            "metrics": read_metrics(stack.url),
        }
        _loads(record).append(figures)
        _write(run, case, record)
        run.say(f"{case.name}: {_brief(figures)}")


def warm_ups(case: Case) -> list[Level]:
    """What goes before the first level of every case and is not kept: prompts of each size alone, then every level once.

    Kernels are compiled for the numbers that they meet (multiples of 16 apart from others), so each number of users
    and tokens has to come once: such a step takes seconds, and vLLM's own monitor warns of it.
    """
    longest = case.context_tokens // 2
    sizes = [size for size in WARM_UP_PROMPTS if size <= longest]
    alone = [replace(WARM_UP, users=1, requests=1, input_tokens=size, seconds=1) for size in sizes]
    once = [
        replace(WARM_UP, users=each.users, requests=2 * each.users, input_tokens=each.input_tokens)
        for each in case.loads
    ]
    return [*alone, *once]


def _others(run: Run, case: Case) -> list[str]:
    return [f"{name}: {doing}" for name, doing in list(run.busy.items()) if name != case.name]


def _loads(record: dict[str, object]) -> list[object]:
    loads = record["loads"]
    if not isinstance(loads, list):
        raise TypeError("a record's loads are a list")
    return loads


def run_level(run: Run, case: Case, stack: BareVllm, level: Level, seed: int) -> dict[str, object]:
    """One closed loop by the load client, in processes of its own; its figures, and each request's own times.

    Raises:
        StackFailedError: the client failed, or took far longer than the level was expected to.
    """
    outcomes = run.place / "engines" / case.name / "outcomes.json"
    limit = min(3 * level.seconds + _LEVEL_SLACK_SECONDS, max(run.remaining(), 1))
    options = {
        "url": stack.url,
        "model": SERVED_NAME,
        "users": level.users,
        "requests": level.requests,
        "input-tokens": level.input_tokens,
        "output-tokens": level.output_tokens,
        "vocabulary": vocabulary_of(case),
        "seed": seed,
        "processes": level.processes,
        "timeout-seconds": limit,
        "outcomes": outcomes,
    }
    client = [sys.executable, str(Path(__file__).with_name("openai_load.py"))]
    command = [*client, *(f"--{name}={value}" for name, value in options.items())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit + 5, check=True)
        figures: dict[str, object] = json.loads(done.stdout)
        raw = json.loads(outcomes.read_text())
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        said = str(getattr(error, "stderr", "") or "")
        raise StackFailedError(f"the load client failed at {level}: {error} {said[-500:]}") from error
    return {**figures, "outcomes": compact(raw)}


def compact(outcomes: Sequence[Mapping[str, float]]) -> list[list[float]]:
    """Requests as [sent, first event, last token, tokens]: seconds since the first of them was sent.

    >>> compact([{"started": 5.0, "first": 5.25, "last": 6.0, "tokens": 16}])
    [[0.0, 0.25, 1.0, 16]]
    """
    zero = min((each["started"] for each in outcomes), default=0.0)
    return sorted(
        [*(round(each[name] - zero, 5) for name in ("started", "first", "last")), each["tokens"]]
        for each in outcomes
    )


def read_metrics(url: str) -> dict[str, float]:
    """The engine's own counters, as `/metrics` has them; empty where it does not answer.

    Without those that are zero, and of histograms without the buckets: each request's own times are kept anyway.
    """
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:  # noqa: S310 - our own http:// address
            text = response.read().decode()
    except (OSError, ValueError):
        return {}
    found = re.findall(r"^(vllm:\S+?(?:\{.*\})?) (\S+)$", text, re.MULTILINE)
    return {
        name: float(value)
        for name, value in found
        if not re.search(r"_(created|bucket)\b", name) and float(value)
    }


def _keep_log(run: Run, case: Case, stack: BareVllm, record: dict[str, object]) -> None:
    """The engine's log: its start, which says what was chosen, and its end."""
    log = stack.read_logs().encode()
    half = _KEPT_LOG_BYTES // 2
    kept = log if len(log) <= _KEPT_LOG_BYTES else log[:half] + b"\n[...]\n" + log[-half:]
    path = run.place / "logs" / f"{case.name}.{record['attempts']}.log.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(kept))
    record.setdefault("engine", read_figures(log.decode(errors="replace")))


def _write(run: Run, case: Case, record: dict[str, object]) -> None:
    path = run.record_path(case)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(record, separators=(",", ":")))
    fresh.replace(path)


def _brief(figures: Mapping[str, object]) -> str:
    keys = ("users", "input_tokens", "completed", "failed", "truncated", "seconds")
    more = ("output_tokens_per_second", "ttft_ms", "tpot_ms", "errors")
    return ", ".join(f"{key} {figures[key]}" for key in keys + more if figures[key] not in ([], 0))
