"""What engines really take and give, for the planner to be set and judged by: real vLLM, real accelerators, no network.

Accelerators are lent for minutes. So the work goes on in a session of its own, which outlives the call that started
it, and the same command, called again, waits for it, or takes it up where it ended: cases that are done stay done,
one that failed is tried once more after all others. Each call leaves what there is in a folder, as a few files.

Engines of one accelerator run beside each other, one on each; each record says what its neighbour was doing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from accelerator_state import accelerators
from planner_case import FOLDER, Case, read_cases
from planner_engine import Run, measure_case

STAGGER_SECONDS = 15.0
"""Between two starts: engines that start at once collide where they pick their ports."""
ATTEMPTS = 2
BUDGET_SECONDS = 1100.0
_POLL_SECONDS = 0.5
_END_SECONDS = 60.0
"""How long a case may take to end after the end of the run."""


def order(run: Run, cases: Sequence[Case], here: int) -> list[Case]:
    """What is left to measure: cases never tried in the file's order, then those that were cut, then those that failed."""
    ranked = []
    for case in cases:
        record = run.read_record(case)
        state, attempts = record.get("state", ""), int(str(record.get("attempts", 0)))
        if case.accelerators > here:
            run.say(f"{case.name}: left out, it takes {case.accelerators} accelerators and {here} are here")
        elif state == "done" or (state == "failed" and attempts >= ATTEMPTS):
            continue
        else:
            ranked.append((("", "cut", "failed").index(str(state)), case))
    return [case for _, case in sorted(ranked, key=lambda pair: pair[0])]


def measure(run: Run, cases: Sequence[Case], devices: Sequence[str]) -> None:
    """Every case there is time for, strictly in order, as many beside each other as there are accelerators for."""
    free = list(devices)
    waiting = order(run, cases, len(devices))
    under_way: list[tuple[threading.Thread, Case, list[str]]] = []
    while waiting or under_way:
        for each in [one for one in under_way if not one[0].is_alive()]:
            under_way.remove(each)
            free += each[2]
            if _deserves_another(run, each[1]):
                waiting.append(each[1])
        if waiting and len(free) >= waiting[0].accelerators:
            case = waiting.pop(0)
            if run.remaining() < case.least_seconds:
                run.say(
                    f"{case.name}: skipped, it takes {case.least_seconds:.0f} s, {run.remaining():.0f} s left"
                )
                continue
            taken = [free.pop(0) for _ in range(case.accelerators)]
            thread = threading.Thread(
                target=measure_case, args=(run, case, taken), name=case.name, daemon=True
            )
            thread.start()
            under_way.append((thread, case, taken))
            if free and waiting:
                time.sleep(STAGGER_SECONDS)
        if run.remaining() < -_END_SECONDS:
            run.say(f"gave up on {[case.name for _, case, _ in under_way]}")
            return
        time.sleep(_POLL_SECONDS)


def _deserves_another(run: Run, case: Case) -> bool:
    record = run.read_record(case)
    return record.get("state") == "failed" and int(str(record.get("attempts", ATTEMPTS))) < ATTEMPTS


def archive(place: Path, out: Path) -> None:
    """Put what there is into `out`: all records in one archive, all logs in another, and the driver's own log."""
    out.mkdir(parents=True, exist_ok=True)
    for name, pattern in (("cases.tar.gz", "cases/*.json"), ("logs.tar.gz", "logs/*.gz")):
        with tarfile.open(out / name, "w:gz") as packed:
            for path in sorted(place.glob(pattern)):
                packed.add(path, arcname=str(path.relative_to(place)))
    # An engine that is still starting has no log kept yet; its last words say why it hangs.
    tails = [f"== {log}\n{_tail(log, 4000)}\n" for log in sorted(place.glob("engines/*/vllm.log"))]
    (out / "engine-tails.txt").write_text("".join(tails))
    driver = place / "driver.log"
    if driver.exists():
        (out / "driver.log").write_bytes(driver.read_bytes())


def _tail(path: Path, size: int) -> str:
    return path.read_bytes()[-size:].decode(errors="replace")


def is_alive(pid_file: Path) -> bool:
    """Whether the process goes on that the file names; one that ended and was not waited for does not count."""
    try:
        return (
            Path(f"/proc/{int(pid_file.read_text())}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )
    except (OSError, ValueError):
        return False


def start_in_background(place: Path, words: Sequence[str]) -> None:
    """Start the measuring in a session of its own, unless it is under way."""
    pid_file = place / "pid"
    if is_alive(pid_file):
        return
    with (place / "driver.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    pid_file.write_text(str(process.pid))


def find_devices() -> list[str]:
    """The accelerators of this machine, by index."""
    return [each["index"] for each in accelerators()]


def main() -> None:
    """Measure the cases of a file; called again, wait for them or go on."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cases", type=Path, default=FOLDER / "cases.yaml")
    parser.add_argument("--place", type=Path, required=True, help="folder for all files, kept between calls")
    parser.add_argument(
        "--budget-seconds", type=float, default=BUDGET_SECONDS, help="the whole run ends after so long"
    )
    parser.add_argument(
        "--wait-seconds", type=float, help="measure in the background, and wait for it so long at most"
    )
    parser.add_argument("--out", type=Path, help="where to leave what there is when the waiting is over")
    parser.add_argument("--only", help="names of cases, separated by commas")
    parser.add_argument("--devices", help="indices of the accelerators to use, separated by commas; else all")
    parser.add_argument(
        "--in-turn", action="store_true", help="loads one after another, while no engine starts"
    )
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, as if it were two accelerators")
    options = parser.parse_args()
    place: Path = options.place.resolve()
    place.mkdir(parents=True, exist_ok=True)
    if options.wait_seconds is not None:
        _wait(options, place)
        return
    cases = read_cases(options.cases)
    if options.only:
        cases = [case for case in cases if case.name in options.only.split(",")]
    run = Run(place=place, deadline=time.monotonic() + options.budget_seconds, in_turn=options.in_turn)
    devices = ["", ""] if options.rehearse else find_devices()
    if options.devices:
        devices = options.devices.split(",")
    run.say(f"{len(cases)} cases on {len(devices)} accelerators, {options.budget_seconds:.0f} s")
    measure(run, cases, devices)
    run.say("ended")
    os._exit(0)  # a case that hangs must not keep the run alive


def _wait(options: argparse.Namespace, place: Path) -> None:
    until = time.monotonic() + options.wait_seconds
    words = [
        f"--place={place}",
        f"--cases={options.cases.resolve()}",
        f"--budget-seconds={options.budget_seconds}",
    ]
    words += [f"--only={options.only}"] * bool(options.only) + ["--rehearse"] * options.rehearse
    words += ["--in-turn"] * options.in_turn + [f"--devices={options.devices}"] * bool(options.devices)
    start_in_background(place, words)
    while is_alive(place / "pid") and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
    print("still running" if is_alive(place / "pid") else "ended")
    if options.out is not None:
        archive(place, options.out)
    print(_tail(place / "driver.log", 9000))


if __name__ == "__main__":
    main()
