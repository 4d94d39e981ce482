"""Plinth's gateway as the benchmarks run it: a process of its own, told its routes and keys over its control socket."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from gateway_processes import Proxy, pinned

from plinth.domain.access import DAY, HOUR, MINUTE, AccessTable, KeyRecord, Limit, PolicyRecord
from plinth.domain.control_lines import encode_access
from plinth.domain.traffic import ModelRoute, RouteTable
from plinth.tests.gateway.harness import Controller, make_model, make_replica

_ROOT = Path(__file__).resolve().parents[2]
SOURCES = _ROOT / "operator"
COMPILED = _ROOT / "build" / "compiled"
"""As the image has it; `make compiled` makes it."""
TENANT = "bench"
MODEL = f"{TENANT}/m"
KEYS = 100
AMPLE = 10**12
"""A limit that is counted and never reached."""
_START_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Key:
    """A secret and what is stored of it."""

    secret: str
    record: KeyRecord


def make_key(name: str, *policies: str, tenant: str = TENANT) -> Key:
    """A key of this name: its secret is made of it, so that a run can be repeated."""
    secret = f"sk-plinth-{sha256(name.encode()).hexdigest()[:43]}"
    digest = sha256(secret.encode()).hexdigest()
    identity = f"pk_{sha256(digest.encode()).hexdigest()[:12]}"
    return Key(secret=secret, record=KeyRecord(id=identity, tenant=tenant, digest=digest, policies=policies))


def every_limit() -> tuple[Limit, ...]:
    """All dimensions, windows and scopes that a policy may name."""
    return (
        *(
            Limit(dimension="requests", window_seconds=window, amount=AMPLE, scope="key")
            for window in (1, MINUTE, HOUR)
        ),
        *(
            Limit(dimension=dimension, window_seconds=window, amount=AMPLE, scope="key")
            for dimension in ("inputTokens", "outputTokens")
            for window in (MINUTE, DAY)
        ),
        Limit(dimension="totalTokens", window_seconds=DAY, amount=AMPLE, scope="policy"),
        Limit(dimension="requests", window_seconds=MINUTE, amount=AMPLE, scope="model"),
        Limit(dimension="concurrency", window_seconds=0, amount=AMPLE, scope="key"),
    )


def access(keys: Sequence[Key], *policies: PolicyRecord) -> AccessTable:
    """Nobody gets in without one of these keys."""
    return AccessTable(version=1, keys=tuple(key.record for key in keys), policies=policies)


def bench_keys() -> tuple[list[Key], PolicyRecord]:
    """A hundred keys under one policy that limits everything."""
    policy = PolicyRecord(name=f"{TENANT}/all", limits=every_limit())
    return [make_key(f"key {number}", policy.name) for number in range(KEYS)], policy


def routes(replicas: Sequence[int], *, concurrency: int = 4096) -> RouteTable:
    """One model over these replicas."""
    return RouteTable(version=1, models=(route(MODEL, replicas, concurrency, engine="VLLM"),))


def route(model: str, ports: Sequence[int], concurrency: int, *, engine: str) -> ModelRoute:
    name = model.partition("/")[2]
    found = [
        make_replica(port, slot=f"{TENANT}.{name}.r.{port}", path="", concurrency=concurrency, engine=engine)
        for port in ports
    ]
    return make_model(*found, model=model, names=(name, model), revision="r")


@asynccontextmanager
async def plinth(
    *,
    core: int,
    port: int,
    folder: Path,
    table: RouteTable,
    admitted: AccessTable,
    flags: Sequence[str] = (),
    package: Path = COMPILED,
) -> AsyncIterator[Proxy]:
    """The gateway before these routes, ready to answer."""
    if not package.is_dir():
        raise SystemExit(f"there is no {package.relative_to(_ROOT)}: make compiled")
    secret, control = folder / "secret", folder / "control.sock"
    secret.write_text("a-secret-of-the-fleet")
    files = ("--control", str(control), "--secret-file", str(secret))
    command = (sys.executable, "-m", "plinth.gateway", "--listen", f"127.0.0.1:{port}", *files, *flags)
    surroundings = {"PYTHONPATH": python_path(package)}
    async with pinned(*command, core=core, port=port, folder=folder, environment=surroundings) as proxy:
        controller = await _dial(control)
        try:
            controller.send(encode_access(admitted))
            await controller.apply(table)
            yield proxy
        finally:
            await controller.close()


def python_path(package: Path) -> str:
    """Where a process finds this package first, then whatever this one finds."""
    return os.pathsep.join((str(package), *filter(None, [os.environ.get("PYTHONPATH")])))


async def _dial(control: Path) -> Controller:
    async with asyncio.timeout(_START_SECONDS):
        while True:
            try:
                return await Controller.connect(control)
            except OSError:
                await asyncio.sleep(0.05)


def asks_for_keys(port: int) -> bool:
    """Whether a caller with an unknown key is refused."""
    body = json.dumps({"model": "m", "messages": []}).encode()
    headers = {"authorization": "Bearer sk-plinth-unknown"}
    request = Request(f"http://127.0.0.1:{port}/v1/chat/completions", body, headers)
    try:
        with urlopen(request, timeout=5) as answer:  # noqa: S310 - as above
            answer.read()
    except HTTPError as error:
        return error.code == 401
    return False
