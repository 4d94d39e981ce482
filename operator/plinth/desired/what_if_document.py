"""What an edit would make of a fleet, as JSON: the document of `plinth plan`, and what `changes` because of it.

`models` are those that were asked about. `pending` are those of them that would not get all they ask for, and those of
others that would not any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plinth.desired.plan_document import find_obstacle, make_plan_document, name_model
from plinth.desired.replica_places import name_node
from plinth.domain.fleet import ModelKey, Node, SlotPlan
from plinth.domain.what_if import WhatIf


def make_what_if_document(found: WhatIf) -> dict[str, Any]:
    """The document of `make_plan_document`, of what concerns the edit."""
    prices = {pool.metadata.name: pool.spec.cost_per_accelerator_hour for pool in found.pools}
    nodes = {node.node_id: node for node in found.nodes}
    whole = make_plan_document(found.after, prices, found.nodes)
    hindered = {each.key for each in found.before.models if find_obstacle(each) is not None}
    return {
        **whole,
        "models": [each for each in whole["models"] if _key(each) in found.asked],
        "pending": [
            each for each in whole["pending"] if _key(each) in found.asked or _key(each) not in hindered
        ],
        "changes": [_change(each, nodes) for each in found.changes],
        "settled": found.at_rest,
    }


def _key(entry: dict[str, Any]) -> ModelKey:
    return ModelKey(entry["namespace"], entry["name"])


def _change(change: SlotPlan, nodes: Mapping[str, Node]) -> dict[str, Any]:
    return {
        **name_model(change.name.model),
        "replica": str(change.name),
        "action": change.action.value,
        "nodes": [name_node(each.node_id, nodes) for each in change.place],
        "reason": change.reason,
    }
