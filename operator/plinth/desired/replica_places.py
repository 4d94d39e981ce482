"""Where a status says that replicas run: their places in the plan, and what their engines said of theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from plinth.api.v1alpha1.replica_places import NodePlace, ReplicaPlace
from plinth.domain.fleet import Node, SeenDevice, Slot, SlotName, SlotPlace, SlotPlan

MAX_PLACES = 64
MOST_LISTED = 64
"""Nodes of a replica, and accelerators of a node: what a replica reports is bounded by nothing else."""
REMEMBERED = 16_384
"""Of a fleet's places hardly any change from one pass to the next: they are not made of the same values again."""


def replica_places(
    plans: Iterable[SlotPlan], slots: Mapping[SlotName, Slot], nodes: Mapping[str, Node]
) -> list[ReplicaPlace]:
    """The first so many replicas by name. `nodes`: by id; one that is gone is told by its id."""
    in_order = sorted(plans, key=lambda plan: plan.name)[:MAX_PLACES]
    return [_place_of(plan, slots.get(plan.name), nodes) for plan in in_order]


def _place_of(plan: SlotPlan, slot: Slot | None, nodes: Mapping[str, Node]) -> ReplicaPlace:
    seen = slot.seen if slot else ()
    ids = dict.fromkeys((*(each.node_id for each in plan.place), *(device.node_id for device in seen)))
    return _make_place(
        str(plan.name), plan.place, seen, tuple((each, name_node(each, nodes)) for each in ids)
    )


@lru_cache(REMEMBERED)
def _make_place(
    replica: str,
    place: tuple[SlotPlace, ...],
    seen: tuple[SeenDevice, ...],
    nodes: tuple[tuple[str, str], ...],
) -> ReplicaPlace:
    told = {each.node_id: each.accelerators for each in place}
    return ReplicaPlace(
        replica=replica,
        nodes=[
            NodePlace(
                node=name,
                accelerators=list(told.get(node_id, ()))[:MOST_LISTED],
                seen=[device.index for device in seen if device.node_id == node_id][:MOST_LISTED],
            )
            for node_id, name in nodes[:MOST_LISTED]
        ],
    )


def name_node(node_id: str, nodes: Mapping[str, Node]) -> str:
    """What people know the node by: its pod, without Kubernetes its address."""
    node = nodes.get(node_id)
    return (node.worker or node.address or node_id) if node else node_id
