"""Draws how the cost of whole plans grows with a fleet, from `results/planner_scale.jsonl`, as an SVG for the docs.

    python e2e/benchmarks/planner_plot.py

Both axes are logarithmic, so a straight line that climbs as the dashed one does is a cost in proportion to the fleet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from math import log10
from pathlib import Path

from records import RESULTS

TARGET = Path(__file__).parents[2] / "docs/images/planner-growth.svg"
WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 40, 48
SIZES, SECONDS = (100, 50_000), (0.001, 100.0)
LINES: Mapping[str, tuple[str, str]] = {
    "full": ("first plan of a process", "#1f6feb"),
    "incremental": ("one change in a running fleet", "#d1570b"),
}
GOALS = ((10_000, 1.0, "1 s"), (10_000, 0.05, "50 ms"))
_METRIC = re.compile(r"planner_(full|incremental)_(?:seconds|ms)(?:_(\d+)_gpus)?")
STATED = 10_000
"""The size of a record that names none."""

Point = tuple[int, float]
"""Accelerators and CPU seconds."""


def read_points(lines: Iterable[str]) -> Mapping[str, list[Point]]:
    """The points of each line, by its name."""
    found: dict[str, list[Point]] = {name: [] for name in LINES}
    for record in map(json.loads, lines):
        named = _METRIC.fullmatch(record["metric"])
        if named and record["value"] is not None:
            seconds = record["value"] / (1000 if record["unit"] == "ms" else 1)
            found[named[1]].append((int(named[2] or STATED), seconds))
    return {name: sorted(points) for name, points in found.items()}


def draw(lines: Mapping[str, list[Point]]) -> str:
    """The whole picture."""
    parts = [*_frame(), *_goals(), *(part for name in lines for part in _line(name, lines[name]))]
    return "\n".join((_OPEN, *parts, "</svg>", ""))


_OPEN = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
    ' font-size="12">\n'
    f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
)


def _x(accelerators: float) -> float:
    share = log10(accelerators / SIZES[0]) / log10(SIZES[1] / SIZES[0])
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _y(seconds: float) -> float:
    share = log10(seconds / SECONDS[0]) / log10(SECONDS[1] / SECONDS[0])
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def _frame() -> Iterator[str]:
    for size in (100, 1_000, 10_000, 50_000):
        yield _stroke(_x(size), _y(SECONDS[0]), _x(size), _y(SECONDS[1]))
        yield _text(
            _x(size), HEIGHT - BOTTOM + 18, f"{size:,}", anchor="end" if size == SIZES[1] else "middle"
        )
    for seconds, name in (
        (0.001, "1 ms"),
        (0.01, "10 ms"),
        (0.1, "100 ms"),
        (1, "1 s"),
        (10, "10 s"),
        (100, "100 s"),
    ):
        yield _stroke(_x(SIZES[0]), _y(seconds), _x(SIZES[1]), _y(seconds))
        yield _text(LEFT - 8, _y(seconds) + 4, name, anchor="end")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "accelerators (a model for every five)")
    # In proportion: ten times the fleet, ten times the time.
    yield _stroke(_x(100), _y(0.003), _x(50_000), _y(1.5), style='stroke="#888" stroke-dasharray="2 4"')


def _goals() -> Iterator[str]:
    for size, seconds, name in GOALS:
        x, y = _x(size), _y(seconds)
        yield f'<path d="M{x - 6} {y}h12M{x} {y - 6}v12" stroke="#b00" stroke-width="2"/>'
        yield _text(x + 10, y + 14, f"goal {name}", anchor="start", colour="#b00")


def _line(name: str, points: list[Point]) -> Iterator[str]:
    title, colour = LINES[name]
    path = " ".join(f"{_x(size)},{_y(seconds)}" for size, seconds in points)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for size, seconds in points:
        yield f'<circle cx="{_x(size)}" cy="{_y(seconds)}" r="3" fill="{colour}"/>'
    yield _text(LEFT + 260 * list(LINES).index(name), 20, f"● {title}", anchor="start", colour=colour)


def _stroke(x1: float, y1: float, x2: float, y2: float, *, style: str = 'stroke="#ddd"') -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" {style}/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", colour: str = "#333") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{text}</text>'


def main() -> None:
    TARGET.write_text(draw(read_points((RESULTS / "planner_scale.jsonl").read_text().splitlines())))
    print(TARGET)


if __name__ == "__main__":
    main()
