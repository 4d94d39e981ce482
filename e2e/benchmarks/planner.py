"""How good the planner is: how far from real engines, from the best placement, and what its plans cost.

Every prediction is made anew from config.json and held against what was measured; places are held against the exact
solver's (`placing_growth`), and whole plans are timed at the size that goals are stated for (`planner_scale`).
`planner_measure.py` measures, and its records stand in `results/planner_measured/`. Cases that set the planner's
constants (calibration) and cases that only judge them (held-out) are told apart in every figure.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from placing_growth import compare_with_optimum
from planner_choices import find_questions
from planner_prediction import (
    FIGURES,
    MEASURED,
    Measured,
    error_percent,
    level_errors,
    memory_errors,
    predict_level,
    predict_memory,
    read_measured,
)
from planner_scale import STATED
from planner_scale import make_records as measure_plans
from records import Record, installed_versions, this_command, write_records

_NAMES = {
    "tokens_per_second": "throughput",
    "ttft_p50_ms": "ttft_p50",
    "ttft_p99_ms": "ttft_p99",
    "tpot_ms": "tpot",
}
_SETS = (("all", None), ("calibration", True), ("held_out", False))


def make_records(cases: Sequence[Measured]) -> Iterator[Record]:
    """All figures; without a measured case they have no value and say why."""
    yield _record("planner_memory_error_percent_worst", _worst_memory(cases), "%", "<=3", _memory(cases))
    for figure in FIGURES:
        errors = {name: _errors(_select(cases, wanted), figure) for name, wanted in _SETS}
        errors["undisturbed"] = [
            error for _, level, error in level_errors(cases, figure) if not level.is_disturbed
        ]
        details = {"levels": _levels(cases, figure)}
        for kind, goal in (("median", "<=15"), ("worst", "<=30")):
            value = {name: _summary(found, kind) for name, found in errors.items()}
            metric = f"planner_{_NAMES[figure]}_error_percent_{kind}"
            peers = {"by_use": value, **(details if kind == "median" else {})}
            yield _record(metric, value["all"], "%", goal, peers)
    questions = find_questions(cases)
    misses = [question for question in questions if question.is_miss]
    yield _record(
        "planner_choice_misses",
        len(misses) if questions else None,
        "choices",
        "==0",
        {
            "questions": len(questions),
            "undisturbed": {
                "questions": sum(not each.is_disturbed for each in questions),
                "misses": sum(not each.is_disturbed for each in misses),
            },
            "misses": [vars(each) for each in misses],
        },
    )


def _record(metric: str, value: float | None, unit: str, goal: str, peers: Mapping[str, object]) -> Record:
    why = {} if value is not None else {"why": "no measured cases of the kind"}
    return Record(
        metric=metric,
        value=value,
        unit=unit,
        goal=goal,
        peers={**peers, **why},
        versions=installed_versions(),
        command=this_command(),
    )


def _select(cases: Sequence[Measured], calibration: bool | None) -> list[Measured]:  # noqa: FBT001 - None is all
    return [case for case in cases if calibration in {None, case.is_calibration}]


def _worst_memory(cases: Sequence[Measured]) -> float | None:
    return max((error for case in cases for error in memory_errors(case).values()), default=None)


def _memory(cases: Sequence[Measured]) -> dict[str, object]:
    rows = {}
    for case in cases:
        plan = predict_memory(case)
        rows[case.name] = {
            "use": case.use,
            "weights_bytes": [plan.weights_bytes, case.weights_bytes],
            "kv_tokens": [plan.kv_tokens, case.kv_tokens],
            "overhead_bytes": [plan.overhead_bytes, case.overhead_bytes],
            "error_percent": memory_errors(case),
        }
    return {"predicted_and_measured": rows}


def _errors(cases: Sequence[Measured], figure: str) -> list[float]:
    return [error for _, _, error in level_errors(cases, figure)]


def _summary(errors: Sequence[float], kind: str) -> float | None:
    if not errors:
        return None
    return round(median(errors) if kind == "median" else max(errors), 2)


def _levels(cases: Sequence[Measured], figure: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for case in cases:
        for level in case.levels:
            predicted, measured = predict_level(case, level)[figure], level.figures[figure]
            found.append(
                {
                    "case": case.name,
                    "use": case.use,
                    "users": level.users,
                    "input_tokens": level.input_tokens,
                    "predicted": round(predicted, 2),
                    "measured": round(measured, 2),
                    "error_percent": error_percent(predicted, measured),
                    "disturbed": level.is_disturbed,
                }
            )
    return found


def main() -> None:
    """Compare, measure, print and keep the records."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--measured", type=Path, default=MEASURED, help="folder with the measured records")
    options = parser.parse_args()
    records = [*make_records(read_measured(options.measured)), compare_with_optimum()]
    write_records("planner", [*records, *measure_plans(STATED)])


if __name__ == "__main__":
    main()
