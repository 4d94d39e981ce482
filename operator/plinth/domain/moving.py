"""Which replicas must go elsewhere although they are as wanted, and which node may be emptied for it.

A replacement is started first wherever there is room (`rollout` treats a misplaced replica like one of an old
revision). Where the machine that is being emptied is itself the room, one node at a time is drained, so that the rest
of the pool serves meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from plinth.domain.fleet import NodeState, Slot, SlotName, SlotPhase
from plinth.domain.pools import Pool
from plinth.domain.sides import is_wanted
from plinth.domain.targets import Target


@dataclass(frozen=True)
class Home:
    """The pool of a node that Plinth brought up or is emptying."""

    pool: str
    retiring: bool
    deleted: bool


def homes_of(pools: Iterable[Pool]) -> Mapping[str, Home]:
    """Every such node's home, by node id."""
    return {
        node.node_id: Home(pool.name, node.state is NodeState.RETIRING, pool.deleted)
        for pool in pools
        for node in (*pool.retiring, *(each for each in pool.nodes if each.pool))
    }


def misplaced(slots: Iterable[Slot], target: Target, homes: Mapping[str, Home]) -> Mapping[SlotName, str]:
    """The replicas that run where they should not, each with the reason; on a node nobody knows, they stay."""
    found = {}
    for slot in slots:
        for home in (homes[node_id] for node_id in slot.nodes if node_id in homes):
            if home.retiring:
                found[slot.name] = "its node is being emptied"
            elif home.pool != target.pool.name:
                found[slot.name] = f"it runs on pool {home.pool}, and {target.pool.name} is asked for"
    return found


def moving(slots: Iterable[Slot], target: Target, broken: Collection[SlotName]) -> Mapping[SlotName, str]:
    """The replicas in whose stead another was started, so that others find room; without that one they stay."""
    there = {slot.name: slot for slot in slots}
    return {
        each.replaces: f"{each.name} was started in its stead"
        for each in there.values()
        if each.replaces in there and each.name not in broken and each.phase is not SlotPhase.STOPPING
        if is_wanted(each, target) and is_wanted(there[each.replaces], target)
    }


def evacuated_node(pool: Pool, slots: Iterable[Slot]) -> frozenset[str]:
    """The one node of the pool that may be emptied now: one that is draining already, else the one with least on it.

    None while an empty one is still on its way out: its machine will be room soon.
    """
    if not pool.retiring:
        return frozenset()
    on: dict[str, list[Slot]] = {node.node_id: [] for node in pool.retiring}
    for slot in slots:
        for node_id in slot.nodes:
            if node_id in on:
                on[node_id].append(slot)
    if not all(on.values()):
        return frozenset()
    return frozenset([min(on, key=lambda node: (not _is_leaving(on[node]), len(on[node]), node))])


def _is_leaving(slots: Iterable[Slot]) -> bool:
    return any(slot.draining_since is not None or slot.phase is SlotPhase.STOPPING for slot in slots)
