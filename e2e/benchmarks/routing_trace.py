"""How many users wait less than 2 s for the first token when the gateway's own routing code chooses the replica.

    python e2e/benchmarks/routing_trace.py [--trace FILE]

The Mooncake synthetic trace (see `--trace`), replayed at twice its speed against eight simulated backends; the mean
of five seeds, each of which moves the arrivals a little. The peers are their published rules, written down anew and
given exact loads and caches; the gateway has what a gateway has.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from records import Record, installed_versions, this_command, write_records
from routing_trace_backends import Asked, Backend, Dispatcher, Outcome, Scene, read_trace, replay
from routing_trace_peers import OWN, PEERS, Gateway

TRACE = Path(__file__).parents[3] / "shared/traces/mooncake/synthetic.jsonl"
"""Beside the checkout; public data of the Mooncake FAST'25 release."""
SECONDS = 2.0
SEEDS = range(5)


def measure(
    trace: Sequence[Asked], scene: Scene, make: Callable[[list[Backend]], Dispatcher]
) -> list[Outcome]:
    """One outcome for each seed."""
    return [replay(trace, scene, seed, make) for seed in SEEDS]


def describe(outcomes: Sequence[Outcome]) -> Mapping[str, object]:
    """Means over the seeds, and what each of them gave."""
    return {
        "percent": round(fmean(each.percent_under(SECONDS) for each in outcomes), 2),
        "seeds": [round(each.percent_under(SECONDS), 2) for each in outcomes],
        "hit_percent": round(fmean(each.hit_percent for each in outcomes), 1),
        "ttft_p50_s": round(fmean(each.percentile(0.5) for each in outcomes), 3),
        "ttft_p90_s": round(fmean(each.percentile(0.9) for each in outcomes), 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trace", type=Path, default=TRACE, help="requests in Mooncake's form, a JSON object a line"
    )
    found = parser.parse_args()
    if not found.trace.exists():
        print(f"no trace at {found.trace}: name one with --trace", file=sys.stderr)
        return 2
    trace, scene = read_trace(found.trace), Scene()
    own = describe(measure(trace, scene, Gateway))
    peers = {name: describe(measure(trace, scene, make)) for name, make in PEERS.items()}
    record = Record(
        metric="routing_ttft_under_2s_percent",
        value=float(str(own["percent"])),
        unit="%",
        goal=">=90",
        peers={OWN: own, **peers},
        versions=installed_versions("plinth"),
        command=this_command(),
    )
    write_records("routing_trace", [record])
    return 0 if record.met else 1


if __name__ == "__main__":
    sys.exit(main())
