"""Keys, policies and models for whole requests over sockets, and what must be true when all of them are over."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from plinth.domain.access import AccessTable, KeyRecord, Limit, PolicyRecord
from plinth.domain.traffic import ModelRoute
from plinth.gateway.server.core import Core
from plinth.tests.gateway.harness import (
    EVERYBODY,
    Answer,
    Rig,
    eventually,
    make_model,
    make_replica,
    make_table,
    running_gateway,
)

TEAM_KEY = "sk-plinth-" + "t" * 43
OTHER_KEY = "sk-plinth-" + "o" * 43
"""Another tenant's."""


def bearer(secret: str = TEAM_KEY) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def make_key(secret: str = TEAM_KEY, *policies: str, **fields: Any) -> KeyRecord:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    values: dict[str, Any] = {"id": f"pk_{digest[:12]}", "tenant": "team"}
    return KeyRecord(**(values | fields), digest=digest, policies=policies)


def make_policy(*limits: Limit, name: str = "team/some", **fields: Any) -> PolicyRecord:
    return PolicyRecord(name=name, limits=limits, **fields)


def make_access(*policies: PolicyRecord, keys: tuple[KeyRecord, ...] | None = None) -> AccessTable:
    """Without `keys`, one that has all the policies."""
    names = [each.name for each in policies]
    return AccessTable(
        version=2, keys=(make_key(TEAM_KEY, *names),) if keys is None else keys, policies=policies
    )


@asynccontextmanager
async def serving(
    folder: Path, *models: ModelRoute, access: AccessTable = EVERYBODY, **settings: Any
) -> AsyncIterator[Rig]:
    """A gateway for these models, at rest again when its clients are done."""
    async with running_gateway(folder, make_table(*models), access, **settings) as rig:
        yield rig
        for connection in rig.connections:
            connection.close()
        await is_at_rest(rig.gateway.core)


def model_at(*ports: int, concurrency: int = 64, engine: str = "", **fields: Any) -> ModelRoute:
    """One model with a replica at each port, its slots in the order of the letters."""
    routes = [
        make_replica(port, slot=f"{letter}.0", concurrency=concurrency, engine=engine)
        for letter, port in zip("abcdefgh", ports, strict=False)
    ]
    return make_model(*routes, **fields)


async def is_at_rest(core: Core) -> None:
    """Nothing is held for anybody: no body, no place at a replica, no place in a queue, no shared answer."""
    models = core.fleet.models.values()
    held: dict[str, Callable[[], float]] = {
        "body bytes": lambda: core.body_bytes,
        "requests at replicas": lambda: sum(len(model.calls) + len(model.queue) for model in models),
        "load": lambda: sum(
            item.in_flight + item.pending_tokens for each in models for item in each.standings
        ),
        "shared answers": lambda: len(core.cache.flights) if core.cache is not None else 0,
    }
    for what, count in held.items():
        try:
            await eventually(lambda count=count: count() == 0, seconds=2)  # type: ignore[misc]
        except AssertionError:
            raise AssertionError(f"{what} left: {count()}") from None


def used(rig: Rig, limit: Limit) -> float:
    """What counts now of a policy's limit, of the only one of its dimension."""
    counters = rig.gateway.core.limiter._counters
    found = [counter for name, counter in counters.items() if f"|{limit.dimension}|" in name]
    assert len(found) <= 1
    return sum(counter.used(time.monotonic()) for counter in found)


def told(answer: Answer) -> tuple[int, str, str]:
    """Status, code and kind of a refusal, in the document that OpenAI's clients read."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status, error["code"], error["type"]
