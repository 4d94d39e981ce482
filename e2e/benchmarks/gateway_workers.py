"""How much more several workers do than one: the same requests, the same replicas, the same keys and limits.

    PYTHONPATH=operator:e2e/benchmarks python e2e/benchmarks/gateway_workers.py [--workers 4] [--seconds 1] [--rounds 12]

Of the machine's cores the gateway gets as many as it has workers, and replicas and clients get as many each, so 4 workers
need 12. It needs an environment with uvloop, httptools, msgspec and prometheus_client, `taskset`, and a C compiler or the
programs of `gateway_wire` compiled before (below XDG_CACHE_HOME).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import uvloop
from gateway_plinth import MODEL, access, asks_for_keys, bench_keys, plinth, routes
from gateway_processes import Proxy, family
from gateway_wire import backend, load, make_requests
from records import Record, installed_versions, this_command, write_records

REPLICAS = 8
CONNECTIONS = 64
"""For each worker: enough that each has always something to do, however unevenly the kernel deals them out."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Who runs on which cores."""

    gateway: Sequence[int]
    replicas: Sequence[int]
    clients: Sequence[int]
    enough: bool
    """Nobody shares a core."""

    @classmethod
    def of_this_machine(cls, workers: int) -> Layout:
        """Cores in turn, over and over where there are too few."""
        cores = sorted(os.sched_getaffinity(0))
        dealt = [cores[index % len(cores)] for index in range(3 * workers)]
        gateway, replicas, clients = (dealt[at : at + workers] for at in range(0, 3 * workers, workers))
        return cls(gateway=gateway, replicas=replicas, clients=clients, enough=len(cores) >= 3 * workers)


@dataclass(kw_only=True)
class Seen:
    """A gateway's figures, one of each a round."""

    per_second: list[float] = field(default_factory=list)
    """Requests."""
    busy: list[float] = field(default_factory=list)
    """The part of its workers' cores that was used: below 0.9 something else was the limit."""
    rss_mib: list[float] = field(default_factory=list)
    """Of all its processes."""
    failed: int = 0


async def measure(
    proxies: Sequence[Proxy], workers: int, layout: Layout, asked: Sequence[bytes], seconds: float
) -> Seen:
    """One round: a warm-up, then all clients at once.

    Where there are several gateways each client is connected to all of them, as it is to all workers of one: on how many
    cores somebody waits to be woken makes a large part of what a request costs the kernel.
    """

    async def drive(for_seconds: float) -> tuple[float, int]:
        connections = CONNECTIONS * workers // len(layout.clients) // len(proxies)
        found = await asyncio.gather(
            *(
                load(
                    proxy.port,
                    asked,
                    core=core,
                    connections=connections,
                    seconds=for_seconds,
                    awake=layout.enough,
                )
                for core in layout.clients
                for proxy in proxies
            )
        )
        return sum(each.answered / each.seconds for each in found), sum(each.failed for each in found)

    await drive(seconds / 4)
    before = sum(proxy.cpu_seconds() for proxy in proxies)
    per_second, failed = await drive(seconds)
    busy = (sum(proxy.cpu_seconds() for proxy in proxies) - before) / (seconds * workers)
    rss = sum(proxy.rss_mib() for proxy in proxies)
    return Seen(per_second=[per_second], busy=[busy], rss_mib=[rss], failed=failed)


async def compare(workers: int, seconds: float, rounds: int) -> Record:
    """One worker, several, and as many gateways that know nothing of each other: what the machine itself lets grow."""
    layout = Layout.of_this_machine(workers)
    keys, policy = bench_keys()
    asked = make_requests([key.secret for key in keys], model=MODEL, count=1000, stream=False)
    one, several, apart = "workers_1", f"workers_{workers}", f"gateways_apart_{workers}"
    seen = {one: Seen(), several: Seen(), apart: Seen()}
    async with AsyncExitStack() as stack:
        ports: list[int] = []
        for core in layout.replicas:
            some = max(1, REPLICAS // len(layout.replicas))
            ports += await stack.enter_async_context(
                backend(core=core, replicas=some, event_milliseconds=20, events=1, awake=layout.enough)
            )

        async def start(count: int, cores: Sequence[int]) -> Proxy:
            proxy = await stack.enter_async_context(
                plinth(
                    core=cores[0],
                    port=free_port(),
                    folder=Path(stack.enter_context(tempfile.TemporaryDirectory())),
                    table=routes(ports),
                    admitted=access(keys, policy),
                    flags=("--workers", str(count)),
                )
            )
            for pid in family(proxy.pid):
                os.sched_setaffinity(pid, cores)
            return proxy

        gateways = {
            one: [await start(1, layout.gateway[:1])],
            several: [await start(workers, layout.gateway)],
            apart: [await start(1, [core]) for core in layout.gateway],
        }
        proxies = [proxy for each in gateways.values() for proxy in each]
        keyed = [await asyncio.to_thread(asks_for_keys, proxy.port) for proxy in proxies]
        for _ in range(rounds):
            for name, those in gateways.items():
                found = await measure(those, 1 if name == one else workers, layout, asked, seconds)
                for figure in ("per_second", "busy", "rss_mib"):
                    getattr(seen[name], figure).extend(getattr(found, figure))
                seen[name].failed += found.failed
    return to_record(workers, seen, layout, with_keys=all(keyed))


def to_record(workers: int, seen: dict[str, Seen], layout: Layout, *, with_keys: bool) -> Record:
    """A speed-up only where every worker had a core for itself."""
    peers: dict[str, object] = {
        name: {
            "requests_per_second": [round(value) for value in found.per_second],
            "busy": [round(value, 2) for value in found.busy],
            "rss_mib": [round(value, 1) for value in found.rss_mib],
            "failed": found.failed,
        }
        for name, found in seen.items()
    }
    peers |= {"cores": len(os.sched_getaffinity(0)), "keys_and_limits": with_keys, "replicas": REPLICAS}
    if not layout.enough:
        peers["no_value"] = f"{workers} workers, their clients and replicas need {3 * workers} cores"
    # Within a round, for a core of a shared machine may do twice as much a minute later.
    one, several = seen["workers_1"].per_second, seen[f"workers_{workers}"].per_second
    rounds = [those / that for those, that in zip(several, one, strict=True)]
    peers["rounds"] = [round(ratio, 2) for ratio in rounds]
    speedup = median(rounds)
    return Record(
        metric="gateway_workers_speedup",
        value=round(speedup, 2) if layout.enough else None,
        unit="x",
        goal=f">={0.875 * workers:g}",
        peers=peers,
        versions=installed_versions("uvloop", "httptools", "msgspec"),
        command=this_command(),
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def main() -> None:
    parser = argparse.ArgumentParser(description="Several workers of the gateway beside one.")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=12)
    found = parser.parse_args()
    write_records("gateway_workers", [uvloop.run(compare(found.workers, found.seconds, found.rounds))])


if __name__ == "__main__":
    main()
