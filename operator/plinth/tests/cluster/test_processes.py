"""Finding and ending the processes of one instance, and no others."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

from plinth.cluster.processes import (
    INSTANCE_VARIABLE,
    end_processes,
    find_instance_processes,
    instance_environment,
    process_started_at,
)

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


def start(command: list[str], instance: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, env=instance_environment(instance), stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(5)


def test_only_the_instances_own_processes_are_found() -> None:
    mine, other = start(SLEEPER, f"mine{os.getpid()}"), start(SLEEPER, f"other{os.getpid()}")
    try:
        assert find_instance_processes(f"mine{os.getpid()}") == [mine.pid]
    finally:
        end(mine)
        end(other)


def test_the_caller_is_never_among_those_found() -> None:
    code = (
        "from plinth.cluster.processes import find_instance_processes;"
        "import os; print(find_instance_processes(os.environ['PLINTH_INSTANCE']))"
    )
    environment = {**os.environ, INSTANCE_VARIABLE: f"self{os.getpid()}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_process_that_ends_on_request_is_not_killed() -> None:
    process = start(SLEEPER, f"polite{os.getpid()}")
    asyncio.run(end_processes([process.pid], patience_seconds=5))
    assert process.wait(5) == -signal.SIGTERM


def test_a_process_that_ignores_the_request_is_killed_when_patience_ends() -> None:
    process = start(STUBBORN, f"stubborn{os.getpid()}")
    before = time.monotonic()
    asyncio.run(end_processes([process.pid], patience_seconds=0.3))
    assert process.wait(5) == -signal.SIGKILL
    assert time.monotonic() - before < 5


def test_a_dead_process_has_no_start_time() -> None:
    process = start(SLEEPER, f"dead{os.getpid()}")
    assert process_started_at(process.pid) is not None
    end(process)
    assert process_started_at(process.pid) is None
