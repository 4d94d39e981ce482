"""The two stacks that are compared: bare `vllm serve`, and the same engine served by `plinth up`.

Each is a process of its own session with a log file; it is ready when one token came back, and ends whole: whatever
carries this run's mark in its environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import yaml

from plinth.api.v1alpha1.modeldeployment import Task
from plinth.domain.fleet import Engine, EngineSpec, ModelFormat
from plinth.engine.seam import LocalModel
from plinth.engine.vllm_args import make_arguments

MARK = "PLINTH_BENCHMARK_RUN"
CONFIG_LINE = re.compile(r"Initializing a V1 LLM engine \(v[^)]*\) with config: (.*)")
KV_LINE = re.compile(r"GPU KV cache size: ([\d,]+) tokens")
_END_SECONDS = 25.0
_ASK_SECONDS = 5.0


class StackFailedError(Exception):
    """A stack ended, or did not get ready; the text is its last lines."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One engine, as both stacks are told to run it."""

    model: Path
    served_name: str
    tensor: int
    devices: str
    """`CUDA_VISIBLE_DEVICES`; empty on a CPU."""
    utilization_percent: int
    context_tokens: int
    concurrency: int
    args: Mapping[str, str] = field(default_factory=dict)
    """Engine arguments by vLLM's names, beside those that follow from the fields above."""
    environment: Mapping[str, str] = field(default_factory=dict)


class Stack(Protocol):
    """What the schedule needs of a stack."""

    name: str
    url: str
    command: list[str]

    def start(self) -> None:
        """Start it; returns at once."""

    def is_ready(self) -> bool:
        """Whether one token came back. Raises StackFailedError when it has ended."""

    def stop(self) -> None:
        """End it with all its processes."""

    def read_logs(self) -> str:
        """What its engine has written."""


class _Process:
    """A process in its own session, marked, with its output in a file."""

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        self.mark = uuid.uuid4().hex
        with log.open("ab") as out:
            self._popen = subprocess.Popen(
                command,
                env={**os.environ, **environment, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def check(self) -> None:
        if self._popen.poll() is not None:
            tail = self.log.read_text(errors="replace").strip().splitlines()[-8:]
            raise StackFailedError(f"ended with {self._popen.returncode}: " + " | ".join(tail)[-1500:])

    def stop(self, number: signal.Signals, seconds: float) -> None:
        """Ask the first process to end, then kill all that is left of the run."""
        if self._popen.poll() is None:
            self._popen.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(seconds)
        for pid in _marked(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(5)


def _marked(mark: str) -> list[int]:
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


class BareVllm:
    """`vllm serve`, given what Plinth's engine gives vLLM."""

    name = "vllm serve"

    def __init__(self, setup: Setup, place: Path) -> None:
        self._setup, self._place = setup, place
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.command = [
            *(sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(setup.model)),
            *("--host", "127.0.0.1", "--port", str(self._port)),
            *engine_arguments(setup),
        ]
        self._process: _Process | None = None

    def start(self) -> None:
        self._place.mkdir(parents=True, exist_ok=True)
        self._process = _Process(self.command, _environment(self._setup), self._place / "vllm.log")

    def is_ready(self) -> bool:
        if self._process is None:
            raise StackFailedError("not started")
        self._process.check()
        return answers(self.url, self._setup.served_name)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop(signal.SIGTERM, _END_SECONDS)
            self._process = None

    def read_logs(self) -> str:
        return (self._place / "vllm.log").read_text(errors="replace")


class PlinthUp:
    """`plinth up` on a folder with one GPUPool and one ModelDeployment."""

    name = "plinth"

    def __init__(self, setup: Setup, place: Path) -> None:
        self._setup, self._place = setup, place
        self._folder = place / "folder"
        self._state = place / "state"
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.command = [
            *(sys.executable, "-m", "plinth.cli", "up", str(self._folder)),
            *("--listen", f"127.0.0.1:{self._port}", "--drain-seconds", "3"),
        ]
        self._process: _Process | None = None

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "fleet.yaml").write_text(yaml.safe_dump_all(fleet(self._setup), sort_keys=False))
        environment = {**_environment(self._setup), "XDG_STATE_HOME": str(self._state)}
        self._process = _Process(self.command, environment, self._place / "plinth.log")

    def is_ready(self) -> bool:
        if self._process is None:
            raise StackFailedError("not started")
        self._process.check()
        return answers(self.url, self._setup.served_name)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop(signal.SIGINT, 2 * _END_SECONDS)
            self._process = None

    def read_logs(self) -> str:
        """The engine writes into Ray's worker logs, below a folder named after the instance."""
        texts = []
        for instance in (self._state / "plinth").glob("*"):
            for log in sorted(Path(f"/tmp/plinth-{instance.name}").glob("session_2*/logs/worker-*")):  # noqa: S108 - Ray's
                with contextlib.suppress(OSError):
                    texts.append(log.read_text(errors="replace"))
        return "\n".join(texts)


def fleet(setup: Setup) -> list[dict[str, object]]:
    """The YAML documents that `plinth up` is given."""
    pool: dict[str, object] = {
        "apiVersion": "plinth.dev/v1alpha1",
        "kind": "GPUPool",
        "metadata": {"name": "local"},
        "spec": {"memoryUtilizationPercent": setup.utilization_percent},
    }
    model: dict[str, object] = {
        "apiVersion": "plinth.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": setup.served_name},
        "spec": {
            "model": {"source": f"file://{setup.model}"},
            "engine": {"type": "VLLM", "args": dict(setup.args)},
            "parallelism": {"tensor": setup.tensor},
            "objectives": {"concurrency": setup.concurrency, "contextTokens": setup.context_tokens},
            "scaling": {"minReplicas": 1, "maxReplicas": 1},
        },
    }
    return [pool, model]


def engine_arguments(setup: Setup) -> list[str]:
    """The words that Plinth's engine gives vLLM's parser for this setup, without the model: taken from Plinth itself."""
    spec = EngineSpec(
        engine=Engine.VLLM,
        source=f"file://{setup.model}",
        source_revision=None,
        credentials=None,
        task=Task.GENERATE,
        served_names=(setup.served_name, f"default/{setup.served_name}"),
        context_tokens=setup.context_tokens,
        concurrency=setup.concurrency,
        tensor_parallel=setup.tensor,
        threads=0 if setup.devices else 1,
        memory_utilization_percent=setup.utilization_percent,
        memory_bytes=0,
    )
    model = LocalModel(path=setup.model, format=ModelFormat.SAFETENSORS, weights_bytes=0)
    computed = [word for word in make_arguments(spec, model) if not word.startswith("--model=")]
    # Plinth's come first there too, so that the user's win.
    return computed + [_flag(name, value) for name, value in setup.args.items()]


def _flag(name: str, value: str) -> str:
    if value == "true":
        return f"--{name}"
    return f"--no-{name}" if value == "false" else f"--{name}={value}"


def _environment(setup: Setup) -> dict[str, str]:
    visible = {"CUDA_VISIBLE_DEVICES": setup.devices} if setup.devices else {}
    return {**setup.environment, **visible}


def answers(url: str, model: str) -> bool:
    """Whether a completion of one token comes back."""
    body = json.dumps({"model": model, "prompt": [400, 401, 402], "max_tokens": 1}).encode()
    request = urllib.request.Request(  # noqa: S310 - our own http:// address
        f"{url}/v1/completions", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_ASK_SECONDS) as response:  # noqa: S310 - the same
            return bool(json.load(response)["choices"])
    except (OSError, urllib.error.URLError, ValueError, KeyError):
        return False


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def read_engine_config(logs: str) -> dict[str, str]:
    """vLLM's own account of its configuration, as its engine core logs it, taken apart into `name: value`."""
    found = CONFIG_LINE.findall(logs)
    if not found:
        return {}
    parts = re.split(r", (?=[a-z_0-9]+=)", found[-1].strip())
    config = dict(part.split("=", 1) for part in parts if "=" in part)
    kv = KV_LINE.findall(logs)
    return {**config, "kv_cache_tokens": kv[-1].replace(",", "") if kv else ""}


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, list[str]]:
    """The entries in which two configurations differ."""
    names = sorted(one.keys() | other.keys())
    return {
        name: [one.get(name, ""), other.get(name, "")] for name in names if one.get(name) != other.get(name)
    }


def wait_until_ready(stack: Stack, deadline: float) -> float:
    """Poll until the stack answers; the seconds that took.

    Raises:
        StackFailedError: it ended, or the deadline (of the monotonic clock) passed.
    """
    started = time.monotonic()
    while not stack.is_ready():
        if time.monotonic() > deadline:
            last = " | ".join(stack.read_logs().strip().splitlines()[-6:])[-1500:]
            raise StackFailedError(
                f"{stack.name} was not ready after {time.monotonic() - started:.0f} s: {last}"
            )
        time.sleep(0.5)
    return time.monotonic() - started
