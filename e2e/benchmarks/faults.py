"""What each fault costs: requests failed, seconds until it is noticed, seconds until all is as before.

Run by `make bench-faults`; needs root, as every cluster with nodes does. One cluster for all faults, one after another,
each under the load of `fault_load.py`; names on the command line pick some, whose lines then replace the older ones.
Writes the table of docs/reliability.md. Takes about half an hour.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("", "tests")]

from fault_kinds import FAULTS, Watch  # noqa: E402 - found by the line above
from fault_load import STREAMS, under_load  # noqa: E402
from fault_platform import MODEL, Fleet, running  # noqa: E402
from fault_table import write_table  # noqa: E402
from kube.processes import wait_until  # noqa: E402
from records import RESULTS, Record, installed_versions, write_records  # noqa: E402

PACKAGES = ("plinth", "ray", "xllamacpp")
LOAD_SECONDS = 8.0
"""Of load before a fault: the streams are under way then."""
AFTER_SECONDS = 3.0
RECOVERY_SECONDS = 180.0
SLACK_SECONDS = 10.0
"""Beyond an engine's start, for a recovery."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("faults", nargs="*", choices=[[], *FAULTS], metavar="FAULT", help=", ".join(FAULTS))
    names = parser.parse_args().faults or list(FAULTS)
    with running() as fleet:
        for name in names:
            keep(measure(fleet, name))


def measure(fleet: Fleet, name: str) -> list[Record]:
    """One fault, from a whole fleet to a whole fleet."""
    wait_until(fleet.is_whole, seconds=RECOVERY_SECONDS, what=f"the fleet is whole before {name}", pause=1.0)
    fault, watch = FAULTS[name], Watch()
    recovery: float | None = None
    left: Sequence[str] = ()
    with under_load(fleet.platform.endpoint, MODEL) as load:
        time.sleep(LOAD_SECONDS)
        early = len(load.failures) + len(load.cuts)
        fault.do(fleet, watch)
        try:
            wait_until(fleet.is_whole, seconds=RECOVERY_SECONDS, what="all is as before", pause=1.0)
            recovery = (watch.recovered or time.monotonic()) - watch.recovers_from
        except TimeoutError:
            left = fleet.lacks()
        time.sleep(AFTER_SECONDS)
    cuts = [] if fault.cuts_streams else load.cuts
    peers = {
        "short_requests_answered": load.answered,
        "streams": load.streamed,
        "longest_short_request_seconds": round(load.longest_seconds, 1),
        "failed_before_the_fault": early,
        "failures": load.failures[:5],
        "streams_cut": len(load.cuts),
        "cuts": load.cuts[:3],
        "streams_at_once": STREAMS,
        "engine_start_seconds": fleet.engine_start_seconds,
        "detected_when": fault.detection,
        "left": [*watch.complaints, *left],
    }
    goal = f"<={fleet.engine_start_seconds + SLACK_SECONDS:g}"
    return [
        _record(f"fault_{name}_failed_requests", len(load.failures) + len(cuts), "requests", "==0", peers),
        _record(f"fault_{name}_detection_seconds", watch.detected, "s", fault.goal, peers),
        _record(f"fault_{name}_recovery_seconds", recovery, "s", goal, peers),
    ]


def _record(metric: str, value: float | None, unit: str, goal: str, peers: dict[str, object]) -> Record:
    return Record(
        metric=metric,
        value=value if value is None else round(value, 2),
        unit=unit,
        goal=goal,
        peers=peers,
        versions=installed_versions(*PACKAGES),
        command="make bench-faults",
    )


def keep(records: Sequence[Record]) -> None:
    """Put a fault's records in the place of its older ones, and the table in step with them."""
    fresh = {record.metric: record for record in records}
    order = [
        f"fault_{name}_{what}"
        for name in FAULTS
        for what in ("failed_requests", "detection_seconds", "recovery_seconds")
    ]
    kept = {record.metric: record for record in read_records() if record.metric in order} | fresh
    write_records("faults", sorted(kept.values(), key=lambda record: order.index(record.metric)))
    write_table()


def read_records() -> Iterator[Record]:
    """Those of earlier runs."""
    path = RESULTS / "faults.jsonl"
    for line in path.read_text().splitlines() if path.exists() else ():
        fields = json.loads(line)
        fields.pop("met")
        yield Record(**fields)


if __name__ == "__main__":
    main()
