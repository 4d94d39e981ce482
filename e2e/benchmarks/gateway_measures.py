"""What is measured of each proxy in each round: as fast as it goes, streams, alone, and at half of its load."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from gateway_processes import Proxy
from gateway_wire import Answered, load

CONNECTIONS = 32
EVENT_MILLISECONDS, EVENTS = 20, 100
"""Each stream's pace and length: 2 s."""
SPREAD_MILLISECONDS = 1000
"""Over which streams begin: else the events of all would come at the same moment."""
GRACE_SECONDS = 15.0
"""For the streams of a slow proxy to end."""
SETTLE_SECONDS = 0.3
"""After a proxy was stopped: for what it has put off."""


@dataclass(frozen=True, kw_only=True)
class Cores:
    """Who runs where: a proxy has its core for itself."""

    proxy: int
    client: int
    replicas: int

    @property
    def apart(self) -> bool:
        """Whether client and replicas have a core each."""
        return self.client != self.replicas

    @classmethod
    def of_this_machine(cls) -> Cores:
        """Two are enough: client and replicas take less than one, see `wire_alone_requests_per_second` in the results."""
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise SystemExit("the benchmark needs two cores: one for a proxy, one for what is around it")
        return cls(proxy=cores[-1], client=cores[0], replicas=cores[1] if len(cores) > 2 else cores[0])


@dataclass(frozen=True, kw_only=True)
class Target:
    """Whom to ask, and what. Plinth is two: its streams that can go on elsewhere, and those passed on as they are."""

    name: str
    proxy: Proxy
    whole: Sequence[bytes]
    stream: Sequence[bytes]
    streams: int
    only_streams: bool = False


@dataclass(kw_only=True)
class Seen:
    """One target's figures, one of each a round."""

    per_cpu_second: list[float] = field(default_factory=list)
    """Requests. What it does in a second of its core, however often others were given that core."""
    per_second: list[float] = field(default_factory=list)
    """Requests, by the clock: the same on a machine that does nothing else."""
    events_per_cpu_second: list[float] = field(default_factory=list)
    alone: list[int] = field(default_factory=list)
    """Median time of an answer, one request after the other; microseconds."""
    half_load: list[int] = field(default_factory=list)
    """The 99th percentile at half of the requests that it can do; microseconds."""
    first_event: list[int] = field(default_factory=list)
    """Median time until a stream's head; microseconds. A proxy that holds streams back shows here."""
    pace: list[float] = field(default_factory=list)
    """How long a stream took against what its replica takes: beyond 1, events lay about and went on together."""
    failed: int = 0

    def median_of(self, name: str) -> float | None:
        values: list[float] = getattr(self, name)
        return median(values) if values else None


async def measure_round(target: Target, seen: Seen, cores: Cores, seconds: float) -> None:
    """All measurements of one round, added to what was seen before."""
    if not target.only_streams:
        await _measure_requests(target, seen, cores, seconds)
    await _measure_streams(target, seen, cores, seconds)


async def _measure_requests(target: Target, seen: Seen, cores: Cores, seconds: float) -> None:
    ask = partial(load, target.proxy.port, target.whole, core=cores.client, awake=cores.apart)
    await ask(connections=CONNECTIONS, seconds=seconds / 4)
    before = target.proxy.cpu_seconds()
    found = await ask(connections=CONNECTIONS, seconds=seconds)
    seen.per_cpu_second.append(found.answered / (target.proxy.cpu_seconds() - before))
    per_second = found.answered / found.seconds
    seen.per_second.append(per_second)
    one = await ask(connections=1, seconds=seconds / 2)
    seen.alone.append(one.whole.p50)
    half = await ask(connections=2 * CONNECTIONS, seconds=seconds, rate=per_second / 2)
    seen.half_load.append(half.whole.p99)
    seen.failed += found.failed + one.failed + half.failed


async def _measure_streams(target: Target, seen: Seen, cores: Cores, seconds: float) -> None:
    before = target.proxy.cpu_seconds()
    found = await load(
        target.proxy.port,
        target.stream,
        core=cores.client,
        awake=cores.apart,
        connections=target.streams,
        seconds=seconds,
        spread_milliseconds=SPREAD_MILLISECONDS,
        grace_seconds=GRACE_SECONDS,
    )
    spent = target.proxy.cpu_seconds() - before
    if not found.answered or found.events < found.answered * EVENTS:
        raise RuntimeError(f"{target.name}: {found.events} events of {found.answered} streams: some are lost")
    seen.events_per_cpu_second.append(found.events / spent)
    seen.pace.append(found.whole.p50 / 1000 / (EVENT_MILLISECONDS * EVENTS))
    seen.first_event.append(found.first.p50)
    seen.failed += found.failed


async def measure_direct(
    port: int, requests: Sequence[bytes], cores: Cores, seconds: float
) -> tuple[Answered, Answered]:
    """Without a proxy: as fast as it goes, which shows what the wire's ends can do, and one after the other."""
    ask = partial(load, port, requests, core=cores.client, awake=cores.apart, seconds=seconds)
    return await ask(connections=CONNECTIONS), await ask(connections=1)
