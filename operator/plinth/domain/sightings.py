"""Whether replicas compute where they were told to: what their engines see, beside the places that they were given."""

from __future__ import annotations

from collections.abc import Collection
from itertools import groupby

from plinth.domain.fleet import Slot


def find_stray(slot: Slot) -> str | None:
    """A sentence where the replica computes on accelerators that it was not given; None too where either is unknown."""
    told = {(each.node_id, index) for each in slot.place for index in each.accelerators}
    seen = {(each.node_id, each.index) for each in slot.seen}
    if not slot.is_numbered or seen <= told:
        return None
    return f"{slot.name} was given {_describe(told)}, and computes on {_describe(seen)}"


def _describe(accelerators: Collection[tuple[str, int]]) -> str:
    """`0, 1 of node-a; 4 of node-b`."""
    nodes = groupby(sorted(accelerators), key=lambda each: each[0])
    return "; ".join(
        f"{', '.join(str(index) for _, index in there)} of {node_id}" for node_id, there in nodes
    )
