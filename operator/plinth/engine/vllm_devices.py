"""Which device each of vLLM's workers computes on, told worker by worker and found among the accelerators of its node.

`plinth.engine.vllm_core` makes `tell_device` a method of every worker, which `AsyncLLM.collective_rpc` calls by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from plinth.domain.fleet import SeenDevice
from plinth.engine.accelerators import NodeAccelerators, ToldDevice

TELL_DEVICE = "tell_device"
"""The method that workers are given."""


def tell_device(worker: Any) -> dict[str, Any] | None:
    """One worker's device as plain values; None on a CPU. The name is what its own driver context says, not the environment."""
    device = worker.device
    if device.type == "cpu":
        return None
    torch = importlib.import_module("torch")
    properties = getattr(torch, device.type).get_device_properties(device)
    return {"ordinal": device.index or 0, "uuid": str(getattr(properties, "uuid", ""))}


def find_seen(
    told: Sequence[dict[str, Any] | None], nodes: Sequence[NodeAccelerators]
) -> tuple[SeenDevice, ...]:
    """The devices of all ranks, in their order; every node has as many ranks as the next."""
    each_has = max(1, len(told) // len(nodes))
    found = (
        nodes[min(rank // each_has, len(nodes) - 1)].seen(ToldDevice(**one))
        for rank, one in enumerate(told)
        if one is not None
    )
    return tuple(seen for seen in found if seen is not None)
