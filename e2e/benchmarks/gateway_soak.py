"""Whether the gateway's memory stays flat: 2,000 streams at once, its resident memory over time.

    python e2e/benchmarks/gateway_soak.py [--minutes 60] [--streams 2000]

Each stream lasts half a minute and is followed by another on the same connection. Memory is read every few seconds;
what counts is by how much it is larger in the last quarter of the time than in the second: the first one warms up.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import uvloop
from gateway_measures import Cores
from gateway_plinth import access, bench_keys, plinth, routes
from gateway_processes import Proxy, free_port
from gateway_wire import Answered, backend, load, make_requests
from records import Record, installed_versions, this_command, write_records

REPLICAS = 8
EVENT_MILLISECONDS, EVENTS = 200, 150
SAMPLES = 400
MOST_GROWTH_MIB = 5


async def soak(arguments: argparse.Namespace, folder: Path) -> Record:
    cores, port, seconds = Cores.of_this_machine(), free_port(), arguments.minutes * 60
    keys, policy = bench_keys()
    ends = backend(
        core=cores.replicas, replicas=REPLICAS, event_milliseconds=EVENT_MILLISECONDS, events=EVENTS
    )
    async with (
        ends as replicas,
        plinth(
            core=cores.proxy, port=port, folder=folder, table=routes(replicas), admitted=access(keys, policy)
        ) as proxy,
    ):
        requests = make_requests([key.secret for key in keys], model="m", count=500, stream=True)
        sampling = asyncio.create_task(sample(proxy, seconds))
        seen = await load(
            port,
            requests,
            core=cores.client,
            connections=arguments.streams,
            seconds=seconds,
            spread_milliseconds=5000,
            grace_seconds=EVENT_MILLISECONDS * EVENTS / 1000 + 30,
        )
        return make_record(await sampling, seen, arguments)


async def sample(proxy: Proxy, seconds: float) -> list[float]:
    """Resident memory in MiB, at even intervals."""
    found = []
    for _ in range(SAMPLES):
        await asyncio.sleep(seconds / SAMPLES)
        found.append(proxy.rss_mib())
    return found


def growth(samples: Sequence[float]) -> float:
    """By how much the last quarter is above the second one."""
    quarter = len(samples) // 4
    return median(samples[-quarter:]) - median(samples[quarter : 2 * quarter])


def make_record(samples: Sequence[float], seen: Answered, arguments: argparse.Namespace) -> Record:
    return Record(
        metric="gateway_soak_rss_growth_mib",
        value=round(growth(samples), 2),
        unit="MiB",
        goal=f"<={MOST_GROWTH_MIB}",
        peers={
            "minutes": arguments.minutes,
            "streams_at_once": arguments.streams,
            "streams_answered": seen.answered,
            "streams_failed": seen.failed,
            "most_mib": round(max(samples), 1),
            "over_time_mib": [round(value, 1) for value in samples[:: max(1, SAMPLES // 60)]],
        },
        versions=installed_versions("uvloop", "httptools", "msgspec"),
        command=this_command(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--streams", type=int, default=2000)
    with tempfile.TemporaryDirectory() as folder:
        record = uvloop.run(soak(parser.parse_args(), Path(folder)))
    write_records("gateway_soak", [record])


if __name__ == "__main__":
    main()
