"""Every test, in three phases: those that bear company several at a time, the gateway's once more as it is when compiled,
then one by one those that need the machine alone.

`make test` runs this module; what follows it goes to pytest. As a plugin of pytest's it picks the tests of a phase.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ALONE = ("alone", "ray", "vllm", "node")
"""The marks of tests that need the machine to themselves. Ray and what is built on it give up by limits of their own,
and vLLM takes every core."""
WORKERS = len(os.sched_getaffinity(0)) + 1
"""One more than there are cores: many tests wait for processes and for time to pass."""
COMPILED = Path("build/compiled")
"""Made by `make compiled`, which makes nothing where there is no C compiler."""
_SIDE_BY_SIDE = ("-n", str(WORKERS), "--dist", "loadfile", "--no-loadscope-reorder")
PHASES = {
    "together": _SIDE_BY_SIDE,
    "compiled": (
        *_SIDE_BY_SIDE,
        *("-o", f"pythonpath={COMPILED} e2e e2e/tests e2e/benchmarks"),
        str(COMPILED / "plinth" / "tests" / "gateway"),
    ),
    "alone": ("-p", "no:xdist"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--phase", choices=PHASES, required=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the other phase's tests out."""
    phase = config.getoption("--phase")
    wanted = "alone" if phase == "alone" else "together"
    config.hook.pytest_deselected(items=[item for item in items if phase_of(item) != wanted])
    items[:] = [item for item in items if phase_of(item) == wanted]


def phase_of(item: pytest.Item) -> str:
    return "alone" if any(item.get_closest_marker(mark) for mark in ALONE) else "together"


def main(arguments: list[str]) -> int:
    """Run all phases, whatever becomes of the ones before. A phase that nothing was picked of is well."""
    statuses = set()
    names_files = any(Path(argument.partition("::")[0]).exists() for argument in arguments)
    for phase, options in PHASES.items():
        if phase == "compiled" and (names_files or not COMPILED.is_dir()):
            continue
        print(f"-- tests that run {phase}", flush=True)
        command = [sys.executable, "-m", "pytest", "-p", "phases", "--phase", phase, *options, *arguments]
        statuses.add(subprocess.call(command))
    if statuses > {pytest.ExitCode.NO_TESTS_COLLECTED}:
        statuses.discard(pytest.ExitCode.NO_TESTS_COLLECTED)
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
