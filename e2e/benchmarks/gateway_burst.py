"""A real gateway asked for more than its replicas can do: by everybody for a minute, and by one key all the time.

    python e2e/benchmarks/gateway_burst.py [--seconds 60]

Three replicas, processes that hold so many requests each and no more: some 48 requests a second together. First 20
keys of one request a second each, alone and beside one that sends 50 a second: with 32 places a replica and answers
whose lengths differ as they do in production traces, and with 8 places and answers of one length, which is harder.
Then, with 8 places, 40 users and for a minute three times that capacity in three bands: nobody may be refused before
the deadline that the policies give, and the more urgent wait less. `queue_fairness.py` shows the same over many seeds
and hours, simulated.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, quantiles

import uvloop
from gateway_engines import engines
from gateway_measures import Cores
from gateway_plinth import TENANT, Key, access, make_key, plinth, route
from gateway_processes import free_port
from records import Record, installed_versions, this_command, write_records

from plinth.domain.access import BANDS, PolicyRecord
from plinth.domain.traffic import RouteTable
from plinth.tests.gateway.harness import Connection, request_bytes

REPLICAS, FIRST_SECONDS, CAPACITY = 3, 0.1, 48.0
"""Replicas, seconds until a first token, and requests a second of all replicas together."""
USERS, USER_RATE = 40, 0.25
KEYS, KEY_RATE, TIMES = 20, 1.0, 50
PARTS = ("fairness", "fairness_few_places", "burst")
QUEUE_SECONDS = 280.0
"""The deadline that the policies give: longer than it takes to work the burst off."""
OPEN_FILES = 20_000


@dataclass(frozen=True, kw_only=True)
class Engines:
    """Replicas of one kind, and the answers that they are asked for."""

    slots: int
    pace: float
    """Seconds a token."""
    tokens: int
    """The median of an answer."""
    spread: float
    """Of the logarithm of an answer's tokens: 0.7 is that of chats in production."""

    def make_tokens(self, chance: random.Random) -> int:
        return max(1, round(self.tokens * chance.lognormvariate(0.0, self.spread)))


USUAL = Engines(slots=32, pace=0.1, tokens=15, spread=0.7)
FEW_PLACES = Engines(slots=8, pace=0.04, tokens=10, spread=0.0)


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One request that is to come."""

    at: float
    key: Key
    band: str
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of it. `ttft` is in seconds; None for what was refused."""

    arrival: Arrival
    status: int
    ttft: float | None
    waited: float
    """Until it was answered or refused; seconds."""


async def play(port: int, arrivals: Sequence[Arrival]) -> list[Outcome]:
    """Sends each request when it is due, whatever became of those before."""
    start = asyncio.get_running_loop().time()
    return list(await asyncio.gather(*(_send(port, arrival, start) for arrival in arrivals)))


async def _send(port: int, arrival: Arrival, start: float) -> Outcome:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(start + arrival.at - loop.time())
    began = loop.time()
    connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
    try:
        words = f"{arrival.key.record.id} {arrival.at}"
        messages = [{"role": "user", "content": words}]
        body = {"model": "m", "stream": True, "max_tokens": arrival.tokens, "messages": messages}
        headers = {"Authorization": f"Bearer {arrival.key.secret}"}
        connection.send(request_bytes(body=body, headers=headers))
        answer = await connection.head()
        waited = loop.time() - began
        while answer.status == 200 and await connection.piece():
            pass
        return Outcome(
            arrival=arrival,
            status=answer.status,
            ttft=waited if answer.status == 200 else None,
            waited=waited,
        )
    finally:
        connection.close()


class Stage:
    """A gateway before its busy replicas, asked for one kind of traffic after the other."""

    def __init__(self, port: int, keys: Mapping[str, Key], engines: Engines) -> None:
        self.port, self.keys, self.engines = port, keys, engines

    def traffic(
        self, key: str, band: str, *, rate: float, seconds: float, start: float = 0.0
    ) -> list[Arrival]:
        """Requests of one key at random times, always the same ones."""
        chance = random.Random(f"{self.keys[key].secret} {start}")  # noqa: S311 - traffic, no secret
        found, at = [], start + chance.expovariate(rate)
        while at < start + seconds:
            tokens = self.engines.make_tokens(chance)
            found.append(Arrival(at=at, key=self.keys[key], band=band, tokens=tokens))
            at += chance.expovariate(rate)
        return found

    async def burst(self, seconds: float) -> Record:
        """Users all the time; from a tenth of the time on, three times the capacity, in three bands."""
        users = [
            arrival
            for number in range(USERS)
            for arrival in self.traffic(f"user {number}", "users", rate=USER_RATE, seconds=1.5 * seconds)
        ]
        extra = [
            arrival
            for band in BANDS[1:]
            for arrival in self.traffic(
                f"{band} burst", band, rate=CAPACITY, seconds=seconds, start=0.1 * seconds
            )
        ]
        outcomes = await play(self.port, [*users, *extra])
        early = [one for one in outcomes if one.ttft is None and one.waited < QUEUE_SECONDS]
        waits = {
            band: mean(
                [one.waited for one in outcomes if one.arrival.band == band and one.ttft is not None] or [-1]
            )
            for band in BANDS[1:]
        }
        return _record(
            "gateway_burst_rejected_before_deadline",
            float(len(early)),
            unit="requests",
            goal="==0",
            peers={
                "requests": len(outcomes),
                "mean_wait_seconds": {band: round(value, 2) for band, value in waits.items()},
                "in_order_of_bands": list(waits.values()) == sorted(waits.values()),
                "statuses": dict(Counter(one.status for one in outcomes)),
            },
        )

    async def fairness(self, seconds: float, metric: str) -> Record:
        """The normal keys' time to first token, alone and beside the busy one. A quarter of the time is left out."""
        normal = [
            arrival
            for number in range(KEYS)
            for arrival in self.traffic(f"user {number}", "default", rate=KEY_RATE, seconds=seconds)
        ]
        heavy = self.traffic("heavy", "heavy", rate=KEY_RATE * TIMES, seconds=seconds)
        alone = _p99(await play(self.port, normal), since=seconds / 4)
        beside = _p99(await play(self.port, [*normal, *heavy]), since=seconds / 4)
        return _record(
            metric,
            round(beside / alone, 3),
            unit="ratio",
            goal="<=1.2",
            peers={"alone_seconds": round(alone, 3), "beside_seconds": round(beside, 3)},
        )


def _p99(outcomes: Sequence[Outcome], *, since: float) -> float:
    """Of the normal keys' requests; what was refused would hide in it, so there must be none."""
    normal = [one for one in outcomes if one.arrival.band == "default" and one.arrival.at >= since]
    found = [one.ttft for one in normal if one.ttft is not None]
    if len(found) < len(normal):
        raise RuntimeError(f"{len(normal) - len(found)} requests of normal keys were refused")
    return quantiles(found, n=100)[98]


def make_keys() -> tuple[list[PolicyRecord], dict[str, Key]]:
    """A policy for each band; users and the heavy key are of the default one."""
    policies = [
        PolicyRecord(name=f"{TENANT}/{band}", priority=band, queue_seconds=QUEUE_SECONDS) for band in BANDS
    ]
    names = {f"user {number}": "default" for number in range(USERS)} | {"heavy": "default"}
    names |= {f"{band} burst": band for band in BANDS}
    return policies, {name: make_key(name, f"{TENANT}/{band}") for name, band in names.items()}


async def measure(part: str, seconds: float, folder: Path) -> Record:
    """One of `PARTS`."""
    async with before(USUAL if part == "fairness" else FEW_PLACES, folder) as stage:
        if part == "burst":
            return await stage.burst(seconds)
        name = "gateway_fairness_ttft_p99_ratio"
        return await stage.fairness(seconds, name if part == "fairness" else f"{name}_few_places")


@asynccontextmanager
async def before(kind: Engines, folder: Path) -> AsyncIterator[Stage]:
    """A gateway before three replicas of this kind."""
    policies, keys = make_keys()
    port = free_port()
    async with engines(REPLICAS, "busy", str(kind.slots), str(FIRST_SECONDS), str(kind.pace)) as replicas:
        served = route(f"{TENANT}/m", [at for _, at in replicas], kind.slots, engine="VLLM")
        table = RouteTable(version=1, models=(served,))
        admitted = access(list(keys.values()), *policies)
        core = Cores.of_this_machine().proxy
        async with plinth(core=core, port=port, folder=folder, table=table, admitted=admitted):
            yield Stage(port, keys, kind)


def _record(metric: str, value: float, *, unit: str, goal: str, peers: dict[str, object]) -> Record:
    return Record(
        metric=metric,
        value=value,
        unit=unit,
        goal=goal,
        peers=peers,
        versions=installed_versions("uvloop", "httptools", "msgspec"),
        command=this_command(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run")
    parser.add_argument("--only", choices=PARTS, help="one part; each writes results of its own")
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES)
    )  # the burst's requests all wait at once
    asked = parser.parse_args()
    for part in [asked.only] if asked.only else PARTS:
        with tempfile.TemporaryDirectory() as folder:
            made = uvloop.run(measure(part, asked.seconds, Path(folder)))
        write_records(f"gateway_{part}", [made])


if __name__ == "__main__":
    main()
