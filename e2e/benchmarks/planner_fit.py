"""Set the constants of the planner by measured cases, calibration cases alone, and say how well they then do.

Least squares over few constants, none of which belongs to one model. `--write` puts them into `calibration.yaml`, whose
comments stay.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from statistics import median

import msgspec
from planner_prediction import (
    FIGURES,
    MEASURED,
    Measured,
    memory_errors,
    predict_level,
    predict_memory,
    read_measured,
)

from plinth.domain.accelerators.catalogue import LinkKind
from plinth.domain.sizing.calibration import CALIBRATION, Calibration

FILE = Path(str(resources.files("plinth.domain.sizing"))) / "calibration.yaml"
MEMORY = "base_bytes"
SPEED = (
    *("bandwidth_fraction", "cache_bandwidth_fraction", "flops_fraction", "narrow_flops_fraction"),
    *("expert_flops_fraction", "expert_bandwidth_fraction"),
    *("unpacking_flops_fraction", "link_fraction"),
    *("layer_microseconds", "expert_layer_microseconds", "narrow_layer_microseconds"),
    *("unpacking_layer_microseconds", "step_microseconds", "launch_layer_microseconds"),
    *("launch_exchange_layer_microseconds", "exchange_microseconds"),
    *("core_step_microseconds", "core_request_microseconds"),
    *("launch_expert_layer_microseconds", "host_request_microseconds", "admission_microseconds"),
    *("admission_token_microseconds", "request_microseconds"),
)
LINKS = {"NVLink": LinkKind.NVLINK}
"""What links are measured; as a constant, `all_reduce_microseconds` of one."""
_MOST_TURNS = 30
_MOST_BEGINNINGS = 6
_LEAST_GAIN = 0.01
"""Of the squared residuals, for which it is begun anew where it ended: over jumps one descent may stop early."""
_NUDGE = 0.93
"""Down: a fraction that has come to 1 has no slope upwards. Far enough to see past the scheduler's jumps."""
_LONGEST = 0.4
"""No constant moves by more than half as much again in one turn: the scheduler makes predictions jump."""
_PULL = 0.003
_FARTHEST = 0.5
"""A figure that is farther off pulls no harder: one stall, as when a kernel is compiled at first use, sets nothing."""
_LONGEST_SHOWN = 4

Constants = Mapping[str, float]


def read_constants(calibration: Calibration) -> dict[str, float]:
    """The constants that can be set, by name."""
    found = {MEMORY: float(calibration.memory.base_bytes)}
    found |= {name: float(getattr(calibration.speed, name)) for name in SPEED}
    return found | {name: calibration.speed.all_reduce_microseconds[kind] for name, kind in LINKS.items()}


def with_constants(calibration: Calibration, constants: Constants) -> Calibration:
    """A calibration with other constants."""
    speed: dict[str, object] = {name: constants[name] for name in SPEED}
    speed["all_reduce_microseconds"] = {
        **calibration.speed.all_reduce_microseconds,
        **{kind: constants[name] for name, kind in LINKS.items()},
    }
    return Calibration(
        memory=msgspec.structs.replace(calibration.memory, base_bytes=round(constants[MEMORY])),
        speed=msgspec.structs.replace(calibration.speed, **speed),
    )


def settle_memory(constants: Constants, cases: Sequence[Measured], start: Calibration) -> dict[str, float]:
    """The base that is right for half of the cases: one that needs more for a reason of its own moves nothing."""
    plain = with_constants(start, constants)
    missing = median(case.overhead_bytes - predict_memory(case, plain).overhead_bytes for case in cases)
    return {**constants, MEMORY: constants[MEMORY] + missing}


def speed_residuals(cases: Sequence[Measured], calibration: Calibration) -> list[float]:
    """Logarithms of predicted over measured: half as fast is as wrong as twice as fast."""
    found = []
    for case in cases:
        for level in case.levels:
            predicted = predict_level(case, level, calibration)
            found += [
                max(-_FARTHEST, min(_FARTHEST, math.log(predicted[name] / level.figures[name])))
                for name in FIGURES
            ]
    return found


def settle(
    constants: Constants, names: Sequence[str], residuals: Callable[[Constants], list[float]]
) -> dict[str, float]:
    """The constants with those `names` moved to where the squared residuals are least: Levenberg's method.

    Constants move by factors. Each is drawn a little to where it began, so that two which the cases cannot tell apart
    share what is to be explained.

    >>> found = settle({"a": 1.0, "b": 8.0}, ["a", "b"], lambda c: [c["a"] * c["b"] - 6, c["a"] - 3])
    >>> abs(found["a"] - 3) < 0.05, abs(found["b"] - 2) < 0.05
    (True, True)
    """

    def drawn(moved: Constants) -> list[float]:
        return residuals(moved) + [_PULL * math.log(moved[name] / constants[name]) for name in names]

    best, off, damping = dict(constants), drawn(constants), 1.0
    for _ in range(_MOST_TURNS):
        slopes = [
            [
                (there - here) / math.log(_NUDGE)
                for there, here in zip(drawn(_moved(best, {name: _NUDGE})), off, strict=True)
            ]
            for name in names
        ]
        step = solve(
            [[_dot(one, other) for other in slopes] for one in slopes],
            [-_dot(one, off) for one in slopes],
            damping,
        )
        factors = {
            name: math.exp(max(-_LONGEST, min(_LONGEST, by))) for name, by in zip(names, step, strict=True)
        }
        moved = _moved(best, factors)
        found = drawn(moved)
        if _dot(found, found) < _dot(off, off):
            best, off, damping = moved, found, damping / 3
        else:
            damping *= 4
    return best


def solve(matrix: list[list[float]], right: list[float], damping: float) -> list[float]:
    """Solve `(matrix + damping · its diagonal) x = right` by elimination; the matrix is symmetric and not singular.

    >>> [round(each, 6) for each in solve([[2.0, 1.0], [1.0, 3.0]], [4.0, 7.0], 0.0)]
    [1.0, 2.0]
    """
    rows = [
        [*(value * (1 + damping * (i == j)) for j, value in enumerate(row)), right[i]]
        for i, row in enumerate(matrix)
    ]
    for i, row in enumerate(rows):
        for below in rows[i + 1 :]:
            factor = below[i] / row[i]
            below[:] = [value - factor * above for value, above in zip(below, row, strict=True)]
    found: list[float] = []
    for i in reversed(range(len(rows))):
        known = sum(value * x for value, x in zip(rows[i][i + 1 : -1], found, strict=True))
        found.insert(0, (rows[i][-1] - known) / rows[i][i])
    return found


def _square(values: Sequence[float]) -> float:
    return _dot(values, values)


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))


def _moved(constants: Constants, factors: Mapping[str, float]) -> dict[str, float]:
    moved = {name: constants[name] * factor for name, factor in factors.items()}
    fractions = {name: min(value, 1.0) for name, value in moved.items() if name.endswith("fraction")}
    return {**constants, **moved, **fractions}


def fit(cases: Sequence[Measured], start: Calibration = CALIBRATION) -> Calibration:
    """The constants that calibration cases ask for; those that no case speaks of stay as they are.

    Raises:
        ValueError: none of the cases is for calibration.
    """
    known = [case for case in cases if case.is_calibration]
    if not known:
        raise ValueError("no calibration cases")
    constants = read_constants(start)
    names = spoken_of(known)
    constants = settle_memory(constants, known, start)
    for _ in range(_MOST_BEGINNINGS):
        before = _square(speed_residuals(known, with_constants(start, constants)))
        constants = settle(constants, names, lambda c: speed_residuals(known, with_constants(start, c)))
        if _square(speed_residuals(known, with_constants(start, constants))) > before * (1 - _LEAST_GAIN):
            break
    return with_constants(start, constants)


def spoken_of(cases: Sequence[Measured]) -> list[str]:
    """The constants of speed that make a difference to at least one of the cases."""
    constants = read_constants(CALIBRATION)
    names = []
    as_it_is = speed_residuals(cases, CALIBRATION)
    for name in (*SPEED, *LINKS):
        other = with_constants(CALIBRATION, _moved(constants, {name: 0.8}))
        if speed_residuals(cases, other) != as_it_is:
            names.append(name)
    return names


def written(text: str, calibration: Calibration) -> str:
    """The file's text with the constants put in, its comments as they are."""
    for name, value in read_constants(calibration).items():
        shown = f"{round(value):_}" if name == MEMORY else f"{float(f'{value:.{_LONGEST_SHOWN}g}'):g}"
        text = re.sub(rf"(\b{name}: )[\d._]+", rf"\g<1>{shown}", text)
    return text


def report(cases: Sequence[Measured], calibration: Calibration) -> Iterator[str]:
    """A line for every case: how far memory and each level are off."""
    for case in cases:
        yield f"{case.name} ({case.use}): memory {memory_errors(case, calibration)}"
        for level in case.levels:
            predicted = predict_level(case, level, calibration)
            pairs = ", ".join(f"{name} {predicted[name]:.1f}/{level.figures[name]:.1f}" for name in FIGURES)
            yield f"  {level.users} users of {level.input_tokens}: {pairs}"


def main() -> None:
    """Fit, and print constants and errors, predicted before measured."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--measured", type=Path, default=MEASURED)
    parser.add_argument("--write", action="store_true", help="put the constants into calibration.yaml")
    options = parser.parse_args()
    cases = read_measured(options.measured)
    found = fit(cases)
    print("\n".join([written(FILE.read_text(), found), *report(cases, found)]))
    if options.write:
        FILE.write_text(written(FILE.read_text(), found))


if __name__ == "__main__":
    main()
