"""Slots of one model at a real Ray, as the operator asks for them, and a client of their replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from plinth.cluster.capacity import CapacityAway
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
from plinth.tests.engine.serving import Served

KEY = ModelKey("team", "chat")


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
