"""Slots of one model at a real Ray, as the operator asks for them, a client of their replicas, and a Ray of two nodes."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from plinth.cluster.capacity import CapacityAway
from plinth.cluster.local_ray import RAY_ENVIRONMENT, free_port
from plinth.cluster.processes import end_processes, find_instance_processes, instance_environment
from plinth.cluster.ray_rest import RayRest
from plinth.desired.names import route_prefix
from plinth.desired.serve_config import ServeSettings
from plinth.desired.serve_details import read_slots
from plinth.domain.fleet import (
    EngineSpec,
    ModelKey,
    Needs,
    Slot,
    SlotAction,
    SlotName,
    SlotPlace,
    SlotPlan,
)
from plinth.tests.controllers.capacity_contract import config_of
from plinth.tests.engine.serving import SECRET, Served

KEY = ModelKey("team", "chat")
_NODES = Path(__file__).with_name("two_nodes.py")


def make_slot(revision: str, spec: EngineSpec, *place: SlotPlace) -> SlotPlan:
    """One replica at exactly this place."""
    return SlotPlan(
        name=SlotName(KEY, revision, 0),
        action=SlotAction.CREATE,
        spec=spec,
        needs=Needs(accelerators=len(place[0].accelerators), memory_bytes=0, nodes=len(place)),
        place=place,
        reason="",
    )


@dataclass(kw_only=True)
class RaySlots:
    """One Ray and what runs on it."""

    rest: RayRest
    client: aiohttp.ClientSession
    settings: ServeSettings
    nodes: tuple[str, ...] = field(default=())

    async def until_nodes(self, count: int) -> None:
        """Return when the Ray has so many nodes; they are then known by their ids, in the order of their starts."""
        async with asyncio.timeout(120):
            while len(self.nodes) < count:
                try:
                    self.nodes = tuple(node.node_id for node in (await self.rest.observe()).nodes)
                except CapacityAway:
                    self.nodes = ()
                await asyncio.sleep(0.5)

    async def apply(self, *slots: SlotPlan) -> None:
        """Have these slots and no others; returns when the others are gone."""
        await self.rest.apply(config_of(slots, self.settings))
        wanted = {slot.name for slot in slots}
        async with asyncio.timeout(120):
            while {each.slot.name for each in read_slots(await self._serve())} - wanted:
                await asyncio.sleep(0.3)

    async def slot(self, plan: SlotPlan, *, other_than: int | None = None) -> Slot:
        """The slot once a process of it runs."""
        async with asyncio.timeout(120):
            while True:
                for each in read_slots(await self._serve()):
                    known = each.slot.port and each.slot.pid not in {None, other_than}
                    if each.slot.name == plan.name and known:
                        return each.slot
                await asyncio.sleep(0.3)

    async def ready(self, plan: SlotPlan, *, seconds: float) -> tuple[Served, dict[str, Any]]:
        """A client of the slot once it answers, and what it told then."""
        slot = await self.slot(plan)
        served = Served(f"http://{slot.host}:{slot.port}{route_prefix(slot.name)}", self.client)
        return served, await served.until("Ready", seconds=seconds)

    async def _serve(self) -> Mapping[str, Any]:
        return (await self.rest.observe()).serve


@asynccontextmanager
async def two_nodes(
    python: str | Path,
    *given: str,
    folder: Path,
    instance: str,
    cache: Path,
    environment: Mapping[str, str],
    patience_seconds: float,
) -> AsyncIterator[RaySlots]:
    """A Ray of two nodes on this machine, by `two_nodes.py` with what it is `given`; at the end nothing of it is left.

    `folder` is for its secrets and its log. What ends late gets so much patience.
    """
    token, port = folder / "token", free_port()
    token.write_text("t" * 40)
    (folder / "secret").write_text(SECRET)
    with (folder / "ray.log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            *(python, _NODES, str(port), *given),
            env={
                **instance_environment(instance),
                **RAY_ENVIRONMENT,
                "RAY_AUTH_TOKEN_PATH": str(token),
                **environment,
            },
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
    rest = RayRest(f"http://127.0.0.1:{port}", token)
    settings = ServeSettings(
        secret_file=str(folder / "secret"),
        cache_dir=str(cache),
        http_host="127.0.0.1",
        http_port=free_port(),
        trust_remote_code=True,
    )
    try:
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {SECRET}"}) as client:
            slots = RaySlots(rest=rest, client=client, settings=settings)
            await slots.until_nodes(2)
            yield slots
    finally:
        await rest.close()
        process.kill()
        await process.wait()
        await end_processes(find_instance_processes(instance), patience_seconds=patience_seconds)
