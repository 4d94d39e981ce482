"""Fuzzes what reads bytes from outside, by coverage: `make fuzz`, or `make fuzz ARGS="60 NAME…"` for longer or fewer.

Each property of `plinth.tests.gateway.shell.properties` gets a process of its own, which starts from its seeds and is
given the same number of seconds. A find is printed as the bytes that a test can be made of.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from plinth.tests.gateway.shell.seeds import SEEDS

ONE = Path(__file__).with_name("one.py")


def holds(name: str, *limits: str) -> bool:
    """Whether nothing was found within libFuzzer's limits."""
    with tempfile.TemporaryDirectory() as folder:
        ended = subprocess.run(
            [sys.executable, str(ONE), name, folder, *limits],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        finds = [path.read_bytes() for path in Path(folder).glob("find-*")]
    trials = [line.split()[-1] for line in ended.stderr.splitlines() if "number_of_executed_units" in line]
    held = ended.returncode == 0 and not finds
    print(f"{name}: {trials[-1] if trials else 'no'} trials, {'held' if held else 'FAILED'}", flush=True)
    if not held:
        _, cause, told = ended.stdout.partition("=== Uncaught Python exception")
        print(cause + told if cause else ended.stdout[-2000:] + ended.stderr[-2000:])
        print(*finds, sep="\n")
    return held


def main() -> int:
    """0 when all held."""
    parser = argparse.ArgumentParser(description="Fuzzes what reads bytes from outside.")
    parser.add_argument("seconds", nargs="?", type=int, default=20, help="for each property (default 20)")
    parser.add_argument("--trials", type=int, metavar="N", help="so many instead, the same ones each time")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SEEDS)}; all by default")
    asked = parser.parse_args()
    unknown = sorted(set(asked.names) - set(SEEDS))
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(SEEDS)}")
    limits = [f"-max_total_time={asked.seconds}"]
    if asked.trials is not None:
        limits = [f"-runs={asked.trials}", "-seed=1"]
    found = [holds(name, *limits) for name in asked.names or SEEDS]
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main())
