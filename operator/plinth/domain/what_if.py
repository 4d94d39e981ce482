"""What would become of a fleet if resources were applied to it: the planner's own plans, on a copy.

First the fleet is brought to rest as it is, then with the edit. So all that differs comes from the edit, and not from
what was under way when the question came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from plinth.api.v1alpha1 import GPUPool, ModelDeployment
from plinth.domain.fleet import (
    Artifact,
    ArtifactRefusal,
    FleetPlan,
    FleetSnapshot,
    LoadWindow,
    Model,
    ModelKey,
    Node,
    NodeState,
    Ray,
    SlotPlan,
)
from plinth.domain.settling import settle
from plinth.domain.targets import TargetMemory

_Kind = TypeVar("_Kind", GPUPool, ModelDeployment)


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What is to be supposed."""

    pools: tuple[GPUPool, ...] = ()
    models: tuple[ModelDeployment, ...] = ()
    artifacts: Mapping[ModelKey, Artifact | ArtifactRefusal] = field(default_factory=dict)
    """What was read of each of the models."""
    nodes: tuple[Node, ...] | None = None
    """All nodes that the fleet would have with these pools; None where they stay as they are."""
    rays: tuple[Ray, ...] | None = None
    """The same of Rays."""


@dataclass(frozen=True, kw_only=True)
class WhatIf:
    """Two fleets at rest, and the way from one to the other."""

    asked: frozenset[ModelKey]
    """The models of the edit."""
    before: FleetPlan
    after: FleetPlan
    changes: tuple[SlotPlan, ...]
    """Replicas that come or go because of the edit, in that order."""
    pools: tuple[GPUPool, ...]
    """As supposed, with their prices."""
    nodes: tuple[Node, ...]
    """All that the changes may speak of."""
    at_rest: bool
    """Whether the end of the way was seen; else plan and changes are those of its beginning."""


def compute_what_if(snapshot: FleetSnapshot, edit: Edit, now: float) -> WhatIf:
    """The fleet with the edit, beside the fleet without it."""
    targets = TargetMemory()
    before = settle(snapshot, now, targets=targets)
    after = settle(apply_edit(before.snapshot, edit, now), now, targets=targets)
    return WhatIf(
        asked=frozenset(map(model_key, edit.models)),
        before=before.plan,
        after=after.plan,
        changes=after.turns,
        pools=after.snapshot.pools,
        nodes=(*snapshot.nodes, *after.snapshot.nodes),
        at_rest=before.at_rest and after.at_rest,
    )


def apply_edit(snapshot: FleetSnapshot, edit: Edit, now: float) -> FleetSnapshot:
    """The snapshot as gather would make it right after the edit: what is known of a model by its load stays known."""
    models = {model.key: model for model in snapshot.models}
    models |= {model_key(each): _edited(each, models.get(model_key(each)), edit, now) for each in edit.models}
    return replace(
        snapshot,
        pools=edited_pools(snapshot, edit.pools),
        models=tuple(models.values()),
        nodes=snapshot.nodes if edit.nodes is None else _with_used(edit.nodes, snapshot.nodes),
        rays=snapshot.rays if edit.rays is None else edit.rays,
        unreadable=snapshot.unreadable - models.keys(),
    )


def edited_pools(snapshot: FleetSnapshot, edits: Iterable[GPUPool]) -> tuple[GPUPool, ...]:
    """All pools, those that are edited or new as they would be."""
    pools = {pool.metadata.name: pool for pool in snapshot.pools}
    pools |= {each.metadata.name: _as_known(each, pools.get(each.metadata.name)) for each in edits}
    return tuple(pools.values())


def moved_to(model: ModelDeployment, pool: str | None) -> ModelDeployment:
    """The model as if it asked for this pool; with None, as it is."""
    if pool is None:
        return model
    return model.model_copy(update={"spec": model.spec.model_copy(update={"pool": pool})})


def model_key(resource: ModelDeployment) -> ModelKey:
    """What the planner knows a model by."""
    return ModelKey(resource.metadata.namespace, resource.metadata.name)


def new_model(resource: ModelDeployment, artifact: Artifact | ArtifactRefusal, first_seen: float) -> Model:
    """A model that nothing runs of yet."""
    return Model(
        key=model_key(resource),
        resource=resource,
        first_seen=first_seen,
        artifact=artifact,
        answered_revision="",
        window=LoadWindow(),
        failure=None,
    )


def _edited(resource: ModelDeployment, known: Model | None, edit: Edit, now: float) -> Model:
    artifact = edit.artifacts[model_key(resource)]
    if known is None:
        return new_model(resource, artifact, now)
    return replace(known, resource=_as_known(resource, known.resource), artifact=artifact, invalid_edit="")


def _as_known(resource: _Kind, known: _Kind | None) -> _Kind:
    """The resource with what an edit leaves as it is: its status, and whether it is being deleted."""
    if known is None:
        return resource
    leaving = {"deletion_timestamp": known.metadata.deletion_timestamp}
    changes = {"status": known.status, "metadata": resource.metadata.model_copy(update=leaving)}
    return resource.model_copy(update=changes)


def _with_used(nodes: Iterable[Node], settled: Iterable[Node]) -> tuple[Node, ...]:
    """The nodes, with the workers that were brought up on the way to rest."""
    there = {node.node_id for node in settled if node.state is NodeState.PRESENT}
    return tuple(
        replace(node, state=NodeState.PRESENT)
        if node.state is NodeState.POTENTIAL and node.node_id in there
        else node
        for node in nodes
    )
