"""What every benchmark hands over: one JSON object a line, printed and kept under `results/`.

A record says what was measured, against which goal, beside which peers, with which versions, and how to repeat it.
"""

from __future__ import annotations

import json
import operator
import platform
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"

_GOAL = re.compile(r"(<=|>=|<|>|==)\s*(-?\d+(?:\.\d+)?)")
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
}


@dataclass(frozen=True, kw_only=True)
class Record:
    """One figure. `peers` holds what it is compared with and the raw repeats that it was made from."""

    metric: str
    value: float | None
    """None where nothing could be measured; `peers` then says why."""
    unit: str
    goal: str
    """An order sign and a number, as in `<=1.05`; empty where a figure has no goal."""
    peers: Mapping[str, object]
    versions: Mapping[str, str]
    command: str

    @property
    def met(self) -> bool | None:
        """Whether the value reaches the goal; None where there is no goal, False where there is no value."""
        if not self.goal:
            return None
        return self.value is not None and meets(self.value, self.goal)

    def to_line(self) -> str:
        """The record as one line of JSON, its fields in the agreed order."""
        fields = asdict(self)
        order = ("metric", "value", "unit", "goal", "met", "peers", "versions", "command")
        return json.dumps({name: fields.get(name, self.met) for name in order}, allow_nan=False)


def meets(value: float, goal: str) -> bool:
    """Whether a value reaches a goal such as `<=1.05`.

    Raises:
        ValueError: the goal is not an order sign and a number.

    >>> meets(0.98, ">=0.97"), meets(1.06, "<=1.05")
    (True, False)
    """
    parsed = _GOAL.fullmatch(goal.strip())
    if parsed is None:
        raise ValueError(f"goal {goal!r} must be an order sign and a number, as in '<=1.05'")
    return _COMPARE[parsed[1]](value, float(parsed[2]))


def write_records(name: str, records: Iterable[Record], *, directory: Path = RESULTS) -> Path:
    """Print the records and put them, and nothing else, into `directory/NAME.jsonl`."""
    lines = [record.to_line() for record in records]
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.jsonl"
    fresh = path.with_suffix(".new")
    fresh.write_text("".join(f"{line}\n" for line in lines))
    fresh.replace(path)  # a run that is cut leaves the last whole set
    for line in lines:
        print(line, flush=True)
    return path


def installed_versions(*distributions: str) -> dict[str, str]:
    """The day (UTC), Python's version and those of the named distributions, where they are installed."""
    found = {"date": datetime.now(tz=UTC).date().isoformat(), "python": platform.python_version()}
    for distribution in distributions:
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return found


def this_command() -> str:
    """The command line that this process was started with, as one would type it from the repository's root."""
    script = Path(sys.argv[0])
    shown = f"e2e/benchmarks/{script.name}" if script.suffix == ".py" else sys.argv[0]
    return shlex.join(["python", shown, *sys.argv[1:]])
