"""The table of docs/reliability.md, made from `results/faults.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "reliability.md"
RESULTS = ROOT / "e2e" / "benchmarks" / "results" / "faults.jsonl"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
HEAD = """\
| fault | failed requests | streams cut | detection, s | recovery, s | what else |
|---|---|---|---|---|---|
"""


def write_table() -> None:
    """Put the table between the document's two markers."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    table = render_table(RESULTS.read_text(encoding="utf-8"))
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table}{END}{after}", encoding="utf-8")


def render_table(lines: str) -> str:
    """One row for each fault. A figure that misses its goal has the goal beside it."""
    records = [json.loads(line) for line in lines.splitlines()]
    rows = {record["metric"]: record for record in records}
    names = [
        metric.removeprefix("fault_").removesuffix("_failed_requests")
        for metric in rows
        if metric.endswith("_failed_requests")
    ]
    return HEAD + "".join(_row(name, rows) for name in names)


def _row(name: str, rows: dict[str, dict[str, Any]]) -> str:
    failed, detection, recovery = (
        rows[f"fault_{name}_{what}"] for what in ("failed_requests", "detection_seconds", "recovery_seconds")
    )
    peers = failed["peers"]
    left = "; ".join(peers["left"]).replace("|", "/").replace("\n", " ") or "nothing"
    cells = (_show(failed), str(peers["streams_cut"]), _show(detection), _show(recovery), left)
    return f"| `{name}` | {' | '.join(cells)} |\n"


def _show(record: dict[str, Any]) -> str:
    if record["value"] is None:
        return "never" if record["met"] is False else "-"
    return f"{record['value']:g}" + (f" (goal {record['goal']})" if record["met"] is False else "")
