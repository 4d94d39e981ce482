"""Draws the gateway beside its peers, from `results/gateway.jsonl`, as an SVG for the docs.

    python e2e/benchmarks/gateway_plot.py

Bars on logarithmic axes: the slowest peer does a five-hundredth of what the fastest does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import log10
from pathlib import Path

from records import RESULTS

TARGET = Path(__file__).parents[2] / "docs/images/gateway-peers.svg"
WIDTH, ROW, LEFT, RIGHT, TOP = 720, 20, 150, 90, 34
PANELS: Mapping[str, tuple[str, float, float]] = {
    "gateway_requests_per_second_core": ("requests in a second of one core", 50, 100_000),
    "gateway_sse_chunks_per_second_core": ("stream events in a second of one core", 500, 100_000),
}
RESUMABLE = "gateway_sse_chunks_resumable_per_second_core"
OURS, THEIRS, GOAL = "#1f6feb", "#9aa4ad", "#b00"
PEERS = ("haproxy", "vllm-router", "sglang-router", "litellm")


def draw_results(results: Path) -> Path:
    """Draws what the file holds; the picture lies beside the docs' others, or beside the file where it is no kept one."""
    records = {record["metric"]: record for record in map(json.loads, results.read_text().splitlines())}
    target = TARGET if results.parent == RESULTS else results.with_suffix(".svg")
    target.write_text(draw(records))
    return target


def draw(records: Mapping[str, dict[str, object]]) -> str:
    """The whole picture: one panel below the other."""
    parts: list[str] = []
    top = TOP
    for metric, (title, least, most) in PANELS.items():
        bars = list(_bars(metric, records))
        goal = float(str(records[metric]["goal"]).lstrip(">="))
        parts += _panel(title, bars, goal, scale=(least, most), top=top)
        top += ROW * len(bars) + 56
    height = top - 20
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"'
        f' font-size="12">\n<rect width="{WIDTH}" height="{height}" fill="white"/>'
    )
    return "\n".join((head, *parts, "</svg>", ""))


def _bars(metric: str, records: Mapping[str, dict[str, object]]) -> Iterator[tuple[str, float, str]]:
    """A name, a value and a colour each."""
    record = records[metric]
    peers = record["peers"]
    assert isinstance(peers, dict)
    resumable = records.get(RESUMABLE, {}).get("value")
    streams = "sse" in metric
    rows = [("Plinth, passed on as they are" if streams else "Plinth", record["value"], OURS)]
    if streams:
        rows.append(("Plinth, able to go on", resumable, OURS))
    rows += [(name, peers.get(name), THEIRS) for name in PEERS]
    for name, value, colour in rows:
        if isinstance(value, (int, float)):
            yield name, float(value), colour


def _panel(
    title: str, bars: list[tuple[str, float, str]], goal: float, *, scale: tuple[float, float], top: float
) -> Iterator[str]:
    def x(value: float) -> float:
        share = log10(max(value, scale[0]) / scale[0]) / log10(scale[1] / scale[0])
        return round(LEFT + 40 + share * (WIDTH - LEFT - 40 - RIGHT), 1)

    yield f'<text x="{LEFT + 40}" y="{top - 12}" font-weight="bold">{title}</text>'
    for row, (name, value, colour) in enumerate(bars):
        y = top + row * ROW
        yield f'<text x="{LEFT + 34}" y="{y + 12}" text-anchor="end" fill="#333">{name}</text>'
        yield f'<rect x="{LEFT + 40}" y="{y}" width="{x(value) - LEFT - 40:.1f}" height="{ROW - 6}" fill="{colour}"/>'
        yield f'<text x="{x(value) + 6}" y="{y + 12}" fill="#333">{value:,.0f}</text>'
    bottom = top + len(bars) * ROW
    yield f'<path d="M{x(goal)} {top - 6}V{bottom}" stroke="{GOAL}" stroke-width="1.5" stroke-dasharray="4 3"/>'
    yield f'<text x="{x(goal)}" y="{bottom + 12}" text-anchor="middle" fill="{GOAL}">goal {goal:,.0f}</text>'


def main() -> None:
    print(draw_results(RESULTS / "gateway.jsonl"))


if __name__ == "__main__":
    main()
