"""What Plinth's stack costs: the same engine under `plinth up` and as bare `vllm serve`, on the same GPUs.

Engines take minutes to start, so both stay loaded and take turns: while one is measured the other is idle, which
costs no GPU time. At TP2 both share both GPUs, half of the memory each. At TP1 the weights leave no room for two on
one GPU: each has a GPU of its own, and half-way they swap, so that every ratio is between runs on the same GPU.

A run that is cut still leaves data: each measurement is written when it is made, and the records are made anew.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import records
from gpu_schedule import BARE, PLINTH, Level, Phase, Profile, gpu_profile, rehearsal_profile
from serving_stacks import (
    BareVllm,
    PlinthUp,
    Setup,
    Stack,
    StackFailedError,
    differing,
    engine_arguments,
    fleet,
    read_engine_config,
    wait_until_ready,
)
from synthetic_model import write_model

import plinth

COMMAND = "bash e2e/benchmarks/gpu_run.sh"
"""How the run is repeated: on a GPU machine by this script, which starts this module with its folders."""
THROUGHPUT_GOAL = ">=0.97"
TTFT_GOAL = "<=1.05"
SERVED_NAME = "bench"
STOP_SECONDS = 20.0
READY_SECONDS = 220.0
"""How long one stack may take to be ready."""
STAGGER_SECONDS = 15.0
"""Between two engines that start at once: they collide where they pick their ports."""
STARTS = 2
GPU_FREE_MIB = 4096


@dataclass(kw_only=True)
class Journal:
    """Where each measurement goes at once, and what the records are made of."""

    place: Path
    deadline: float
    profile: Profile
    measurements: list[dict[str, object]] = field(default_factory=list)
    engines: dict[str, dict[str, object]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """A line of progress, with the seconds since the start."""
        line = f"[{time.monotonic() - self.started:6.1f}] {text}"
        print(line, file=sys.stderr, flush=True)

    def remaining(self) -> float:
        """Seconds until the end of the run."""
        return self.deadline - time.monotonic()

    def affords(self, seconds: float, what: str) -> bool:
        """Whether there is time for a step; says so when there is not."""
        if self.remaining() >= seconds:
            return True
        self.say(f"skipped {what}: it takes {seconds:.0f} s and {self.remaining():.0f} s are left")
        return False

    def note(self, measurement: dict[str, object]) -> None:
        """Keep a measurement."""
        self.measurements.append(measurement)
        with (self.place / "measurements.jsonl").open("a") as file:
            file.write(json.dumps(measurement) + "\n")

    def write_records(self, *, quiet: bool) -> None:
        """Make the records of all measurements so far."""
        made = make_records(self.measurements, self.engines)
        if quiet:
            with contextlib.redirect_stdout(None):
                records.write_records("gpu_stack", made, directory=self.place)
        else:
            records.write_records("gpu_stack", made, directory=self.place)


def run(journal: Journal) -> None:
    """Every phase for which there is time; the records after each repeat."""
    model = write_model(journal.place / "model", journal.profile.shape)
    for phase in journal.profile.phases:
        needed = phase.start_seconds + phase.repeat_seconds
        if not journal.affords(needed, f"phase {phase.name}"):
            continue
        try:
            with loaded(journal, phase, model) as stacks:
                measure(journal, phase, stacks)
        except StackFailedError as error:
            journal.say(f"phase {phase.name} failed: {error}")
            journal.note({"phase": phase.name, "tensor": phase.tensor, "failed": str(error)})


@contextlib.contextmanager
def loaded(journal: Journal, phase: Phase, model: Path) -> Iterator[list[Stack]]:
    """Both stacks, ready; ended afterwards, and their GPUs free again."""
    place = journal.place / phase.name.lower().replace(" ", "-")
    bare = BareVllm(make_setup(journal.profile, phase, model, BARE), place / "bare")
    plinth = PlinthUp(make_setup(journal.profile, phase, model, PLINTH), place / "plinth")
    try:
        bare.start()
        if phase.shared:
            _await(journal, phase, bare)
            plinth.start()
        else:
            time.sleep(STAGGER_SECONDS)
            plinth.start()
            _await(journal, phase, bare)
        _await(journal, phase, plinth)
        _note_engines(journal, phase, bare, plinth)
        yield [bare, plinth]
    finally:
        journal.say(f"{phase.name}: stopping")
        (place / "plinth-engine.log").write_text(plinth.read_logs())  # Ray's logs go when it ends
        plinth.stop()
        bare.stop()
        wait_for_free_gpus(STOP_SECONDS)


def make_setup(profile: Profile, phase: Phase, model: Path, stack: str) -> Setup:
    """What a stack is told in a phase: the same but for the GPUs.

    Stacks that start one after the other share vLLM's cache of compiled graphs, so that only the first compiles; two
    that start at once would read what the other is writing.
    """
    cache = Path(os.environ.get("VLLM_CACHE_ROOT", "~/.cache/vllm")).expanduser()
    shared = cache / ("shared" if phase.shared else stack.replace(" ", "-"))
    return Setup(
        model=model,
        served_name=SERVED_NAME,
        tensor=phase.tensor,
        devices=phase.devices[stack],
        utilization_percent=phase.utilization_percent,
        context_tokens=profile.context_tokens,
        concurrency=profile.concurrency,
        args=profile.args,
        environment={**profile.environment, "VLLM_CACHE_ROOT": str(shared)},
    )


def _await(journal: Journal, phase: Phase, stack: Stack) -> None:
    """Wait for a stack; bare vLLM is started anew when it dies, as Plinth does by itself."""
    for left in reversed(range(STARTS)):
        limit = min(READY_SECONDS, max(journal.remaining() - phase.repeat_seconds, 30))
        try:
            seconds = wait_until_ready(stack, time.monotonic() + limit)
        except StackFailedError as error:
            if not left or stack.name == PLINTH:
                raise
            journal.say(f"{phase.name}: {stack.name} is started again: {error}")
            stack.stop()
            stack.start()
        else:
            journal.say(f"{phase.name}: {stack.name} is ready after {seconds:.0f} s of waiting")
            return


def _note_engines(journal: Journal, phase: Phase, bare: BareVllm, plinth: PlinthUp) -> None:
    configs = {stack.name: read_engine_config(stack.read_logs()) for stack in (bare, plinth)}
    differences = differing(configs[BARE], configs[PLINTH])
    journal.engines[phase.name] = {
        "arguments": engine_arguments(make_setup(journal.profile, phase, Path("/MODEL"), BARE)),
        "environment": engine_environment(),
        "fleet": fleet(make_setup(journal.profile, phase, Path("/MODEL"), PLINTH)),
        "configurations_read": all(configs.values()),
        "configuration_differences": differences,
        "kv_cache_tokens": {name: config.get("kv_cache_tokens", "") for name, config in configs.items()},
    }
    (journal.place / f"engines-{phase.name.lower().replace(' ', '-')}.json").write_text(
        json.dumps(configs, indent=1)
    )
    journal.say(f"{phase.name}: engine configurations read: {all(configs.values())}; differ in {differences}")


def engine_environment() -> dict[str, str]:
    """The variables that both engines see alike; paths say nothing about speed and are left out."""
    named = ("VLLM_", "NCCL_", "TORCH_SYMM", "NVSHMEM_")
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(named) and not value.startswith("/")
    }


def measure(journal: Journal, phase: Phase, stacks: Sequence[Stack]) -> None:
    """Warm up, then repeat; the order of the stacks turns round each time."""
    for stack in stacks:
        for level in phase.levels:
            warm_up = replace(level, requests=min(level.requests, level.users))
            run_load(
                journal,
                stack,
                warm_up,
                seed=-level.users,
                output_tokens=min(64, journal.profile.output_tokens),
            )
    journal.say(f"{phase.name}: warm")
    for repeat in range(1, phase.repeats + 1):
        later = phase.needed_later_seconds if repeat > 1 else 0.0
        if not journal.affords(phase.repeat_seconds + later, f"repeat {repeat} of {phase.name}"):
            return
        for level in phase.levels:
            in_order = stacks if repeat % 2 else list(reversed(stacks))
            for stack in in_order:
                seed = 10_000 * phase.tensor + 1_000 * repeat + level.users
                figures = run_load(journal, stack, level, seed, journal.profile.output_tokens)
                where = {"phase": phase.name, "tensor": phase.tensor, "repeat": repeat, "stack": stack.name}
                journal.note({**where, "devices": phase.devices[stack.name], **figures})
                journal.say(f"{phase.name} {repeat}: {stack.name}, {_brief(figures)}")
        journal.write_records(quiet=True)


def run_load(
    journal: Journal, stack: Stack, level: Level, seed: int, output_tokens: int
) -> dict[str, object]:
    """One measurement, by the load client in a process of its own."""
    options = {
        "url": stack.url,
        "model": SERVED_NAME,
        "users": level.users,
        "requests": level.requests,
        "input-tokens": journal.profile.input_tokens,
        "output-tokens": output_tokens,
        "vocabulary": journal.profile.shape.vocabulary,
        "seed": seed,
        "processes": level.processes,
        "timeout-seconds": 120,
    }
    client = [sys.executable, str(Path(__file__).with_name("openai_load.py"))]
    command = [*client, *(part for name, value in options.items() for part in (f"--{name}={value}",))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
        figures: dict[str, object] = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        said = getattr(error, "stderr", "") or ""
        raise StackFailedError(
            f"the load client failed on {stack.name}: {error} {str(said)[-500:]}"
        ) from error
    return figures


def _brief(figures: dict[str, object]) -> str:
    keys = (
        "users",
        "completed",
        "failed",
        "truncated",
        "seconds",
        "output_tokens_per_second",
        "ttft_ms",
        "errors",
    )
    return ", ".join(f"{key} {figures[key]}" for key in keys if figures[key] not in ([], 0))


def wait_for_free_gpus(seconds: float) -> None:
    """Return when no GPU holds more than a remnant, or the time is over; at once without GPUs."""
    deadline = time.monotonic() + seconds
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        while time.monotonic() < deadline:
            used = subprocess.run(
                query, capture_output=True, text=True, timeout=20, check=True
            ).stdout.split()
            if all(int(each) < GPU_FREE_MIB for each in used):
                return
            time.sleep(0.5)


def make_records(
    measurements: Sequence[dict[str, object]], engines: dict[str, dict[str, object]]
) -> list[records.Record]:
    """Two records for each TP and number of users: the median ratios over all pairs of runs."""
    made = []
    runs = [each for each in measurements if "users" in each]
    for tensor, users in sorted({(each["tensor"], each["users"]) for each in runs}, key=str):
        here = [each for each in runs if (each["tensor"], each["users"]) == (tensor, users)]
        pairs = list(pair_up(here))
        peers = {
            "tensor_parallel": tensor,
            "users": users,
            "pairs": len(pairs),
            "same_gpus": all(one["devices"] == other["devices"] for one, other in pairs),
            "engines": {each["phase"]: engines.get(str(each["phase"])) for each in here},
            "runs": here,
        }
        made.append(_record("stack_throughput_ratio_to_vllm", THROUGHPUT_GOAL, _throughput, pairs, peers))
        made.append(_record("stack_ttft_p99_ratio_to_vllm", TTFT_GOAL, _ttft_p99, pairs, peers))
    return made


def pair_up(runs: Sequence[dict[str, object]]) -> Iterator[tuple[dict[str, object], dict[str, object]]]:
    """Each of Plinth's runs with one of bare vLLM's: on the same GPUs if there is any, of the nearest repeat."""
    for one in runs:
        bare = [each for each in runs if each["stack"] == BARE]
        same_gpus = [each for each in bare if each["devices"] == one["devices"]]
        if one["stack"] == PLINTH and bare:
            yield (
                one,
                min(
                    same_gpus or bare,
                    key=lambda each: abs(int(str(each["repeat"])) - int(str(one["repeat"]))),
                ),
            )


def _throughput(figures: dict[str, object]) -> float:
    return float(str(figures["output_tokens_per_second"]))


def _ttft_p99(figures: dict[str, object]) -> float:
    spread = figures["ttft_ms"]
    return float(spread.get("p99", 0.0)) if isinstance(spread, dict) else 0.0


def _record(
    metric: str,
    goal: str,
    figure: Callable[[dict[str, object]], float],
    pairs: Sequence[tuple[dict[str, object], dict[str, object]]],
    peers: dict[str, object],
) -> records.Record:
    whole = [pair for pair in pairs if not any(each["failed"] or each["truncated"] for each in pair)]
    ratios = [round(figure(one) / figure(other), 4) for one, other in whole if figure(other)]
    medians = {
        name: statistics.median(figure(pair[index]) for pair in whole) if whole else None
        for index, name in enumerate((PLINTH, BARE))
    }
    return records.Record(
        metric=metric,
        value=round(statistics.median(ratios), 4) if ratios else None,
        unit="ratio",
        goal=goal,
        peers={**peers, "ratios": ratios, "medians": medians},
        versions=versions(),
        command=COMMAND,
    )


def versions() -> dict[str, str]:
    """Everything whose version could move a figure."""
    found = {"plinth": plinth.__version__}
    found |= records.installed_versions("vllm", "ray", "torch", "transformers", "uvloop")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        found["gpus"] = "; ".join(answer.stdout.strip().splitlines())
    return found


def main() -> None:
    """Measure what Plinth's stack costs beside bare `vllm serve`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with a toy model")
    parser.add_argument(
        "--budget-seconds", type=float, default=1380.0, help="start no step that would end later"
    )
    parser.add_argument("--place", type=Path, help="folder for the model, logs, measurements and records")
    parser.add_argument("--phases", help="names of the phases to run, separated by commas; all unless given")
    options = parser.parse_args()
    profile = rehearsal_profile() if options.rehearse else gpu_profile()
    if options.phases:
        chosen = options.phases.split(",")
        profile = replace(profile, phases=tuple(each for each in profile.phases if each.name in chosen))
    place = options.place or Path(tempfile.mkdtemp(prefix="gpu-stack-"))
    place.mkdir(parents=True, exist_ok=True)
    journal = Journal(place=place, deadline=time.monotonic() + options.budget_seconds, profile=profile)
    journal.say(f"in {place}: {asdict(profile)}")
    try:
        run(journal)
    finally:
        journal.write_records(quiet=False)
        if not options.rehearse and journal.measurements:
            with contextlib.redirect_stdout(None):
                records.write_records("gpu_stack", make_records(journal.measurements, journal.engines))


if __name__ == "__main__":
    main()
