"""A Ray of our own on this machine: started on loopback with token authentication, adopted after a crash, ended whole."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from plinth.cluster.capacity import CapacityAway
from plinth.cluster.processes import (
    end_processes,
    find_instance_processes,
    instance_environment,
    spawn,
)
from plinth.cluster.ray_rest import RayRest
from plinth.cluster.state_dir import ProcessRef
from plinth.desired.ray_environment import SERVING_ENVIRONMENT
from plinth.domain.node_types import ACCELERATOR_LABEL, ACCELERATOR_MEMORY_LABEL
from plinth.domain.pools import ENGINES_LABEL

START_SECONDS = 90.0
STOP_PATIENCE_SECONDS = 5.0

RAY_ENVIRONMENT: Mapping[str, str] = {
    **SERVING_ENVIRONMENT,
    # Ray's own switch for "one machine only": node address, GCS and raylet then stay on loopback.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
}


class RayStartError(Exception):
    """Ray could not be started; the message says why, in its own last words."""


@dataclass(frozen=True, kw_only=True)
class RayProcess:
    """A Ray head that this instance started: enough to find it again after a crash."""

    process: ProcessRef
    dashboard: str


async def start_ray(
    instance: str, token_file: Path, log_file: Path, *, keep: tuple[int, ...] = ()
) -> RayProcess:
    """Start a head node and wait until its dashboard answers; on failure all but `keep` is cleared away again.

    Raises RayStartError.
    """
    temp_dir = ray_temp_dir(instance)
    shutil.rmtree(temp_dir, ignore_errors=True)
    dashboard = free_port()
    settings = {"dashboard_port": dashboard, "temp_dir": str(temp_dir), "labels": local_labels()}
    command = [sys.executable, "-m", "plinth.engine.ray_head", json.dumps(settings)]
    environment = {
        **instance_environment(instance),
        **RAY_ENVIRONMENT,
        "RAY_AUTH_TOKEN_PATH": str(token_file),
    }
    pid = spawn(command, environment=environment, log_file=log_file)
    try:
        ray = RayProcess(process=ProcessRef.of("ray", pid), dashboard=f"http://127.0.0.1:{dashboard}")
    except ProcessLookupError as error:
        raise RayStartError(f"Ray ended at once: {_last_words(log_file)}") from error
    try:
        await _wait_until_it_answers(ray, token_file, log_file)
    except BaseException:
        await stop_ray(ray, instance, keep=keep)
        raise
    return ray


def ray_temp_dir(instance: str) -> Path:
    """Ray's session folder of an instance. Sockets below it must stay under 108 bytes of path, hence /tmp."""
    return Path(f"/tmp/plinth-{instance}")  # noqa: S108 - made afresh at each start, by us


async def answers(ray: RayProcess, token_file: Path) -> bool:
    """Whether the head lives and its dashboard answers."""
    if not ray.process.is_running():
        return False
    rest = RayRest(ray.dashboard, token_file, timeout_seconds=3.0)
    try:
        await rest.observe()
    except CapacityAway:
        return False
    finally:
        await rest.close()
    return True


async def stop_ray(ray: RayProcess, instance: str, *, keep: tuple[int, ...] = ()) -> None:
    """End this head and every process of the instance but those to keep."""
    if ray.process.is_running():
        await end_processes([ray.process.pid], patience_seconds=STOP_PATIENCE_SECONDS)
    await end_leftovers(instance, keep=keep)
    shutil.rmtree(ray_temp_dir(instance), ignore_errors=True)


async def end_leftovers(instance: str, *, keep: tuple[int, ...]) -> None:
    """End what an instance's crash left behind, but for the processes to keep."""
    left = [pid for pid in find_instance_processes(instance) if pid not in keep]
    if left:
        await end_processes(left, patience_seconds=STOP_PATIENCE_SECONDS)


def local_labels() -> dict[str, str]:
    """Labels of this machine's node: its engines, and its accelerators' kind and memory as nvidia-smi says."""
    engines = [name for name, module in (("LlamaCpp", "xllamacpp"), ("VLLM", "vllm")) if find_spec(module)]
    labels = {ENGINES_LABEL: ".".join(engines)}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        name, memory = answer.stdout.splitlines()[0].rsplit(",", 1)
        labels[ACCELERATOR_LABEL] = name.strip().removeprefix("NVIDIA ").replace(" ", "-")
        labels[ACCELERATOR_MEMORY_LABEL] = memory.strip()
    return labels


async def _wait_until_it_answers(ray: RayProcess, token_file: Path, log_file: Path) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_SECONDS
    while loop.time() < deadline:
        if not ray.process.is_running():
            raise RayStartError(f"Ray ended while starting: {_last_words(log_file)}")
        if await answers(ray, token_file):
            return
        await asyncio.sleep(0.2)
    raise RayStartError(f"Ray did not answer within {START_SECONDS:.0f} s: {_last_words(log_file)}")


def _last_words(log_file: Path) -> str:
    lines = [line.strip() for line in log_file.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-4:]) or "it wrote nothing"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
