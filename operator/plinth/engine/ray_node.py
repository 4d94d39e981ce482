"""What a process inside Ray learns of its own node from Ray: its name and address, and the accelerators it has there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ray
from ray._private import worker

from plinth.engine.accelerators import NodeAccelerators, given_by_name
from plinth.engine.nvml import read_devices


def node_address() -> str:
    """Where the other nodes of this Ray reach this one."""
    address: str = ray.util.get_node_ip_address()
    return address


def find_accelerators(planned: Sequence[int]) -> NodeAccelerators:
    """What this process is to use of its node: as planned, by index; without a plan, as Ray chose."""
    context = ray.get_runtime_context()
    chosen = [str(name) for names in context.get_accelerator_ids().values() for name in names]
    own = own_list(worker.global_worker.original_visible_accelerator_ids)
    return NodeAccelerators(
        node_id=context.get_node_id(),
        own=own,
        given=tuple(planned) or given_by_name(own, chosen),
        driver=read_devices() if planned or chosen else (),
    )


def own_list(originals: Mapping[str, Sequence[str] | None]) -> tuple[str, ...] | None:
    """What the node's own variable named when this process started, before a Ray that does choose wrote over it.

    Ray keeps it for each resource (`GPU`, `NPU`, `TPU`…); a node has accelerators of one maker.
    """
    return next((tuple(names) for names in originals.values() if names), None)
