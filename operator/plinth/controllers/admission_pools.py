"""Judges an edit of a GPUPool: what cannot be edited, and which models it would leave without a place."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from plinth.api.v1alpha1 import GPUPool
from plinth.api.v1alpha1.rules import TRANSITIONS
from plinth.controllers.admission_models import Verdict
from plinth.domain.fleet import FleetSnapshot, Model
from plinth.domain.naming import resolve_names
from plinth.domain.pool_choice import choose_target
from plinth.domain.pools import Pool, resolve_pools
from plinth.domain.targets import Refusal

MOST_MODELS_NAMED = 5
MOST_MODELS_TRIED = 200
"""Planning for one takes a fraction of a millisecond; an edit waits for the answer."""


def judge_pool(new: GPUPool, old: GPUPool | None, fleet: FleetSnapshot) -> Verdict:
    """Whether the pool may become this. What its models lose by it is a warning: the pool is its owner's."""
    if old is None:
        return Verdict()
    refusals = tuple(
        f"spec.{rule.field}: {rule.message}"
        for rule in TRANSITIONS["GPUPoolSpec"]
        if not rule.holds(new.spec, old.spec)
    )
    if refusals:
        return Verdict(refusals=refusals)
    return Verdict(warnings=tuple(islice(_stranded(new, fleet), MOST_MODELS_NAMED)))


def _stranded(new: GPUPool, fleet: FleetSnapshot) -> Iterator[str]:
    """The models of the pool that could be planned for before the edit and cannot after it."""
    name = new.metadata.name
    edited = [new if pool.metadata.name == name else pool for pool in fleet.pools]
    before, after = resolve_pools(fleet.pools, fleet.nodes), resolve_pools(edited, fleet.nodes)
    models = [
        model for model in fleet.models if name in {model.resource.spec.pool, model.resource.status.pool}
    ]
    for model in models[:MOST_MODELS_TRIED]:
        lost = _refusal(model, after)
        if lost is not None and _refusal(model, before) is None:
            yield f"{model.key} can no longer run: {lost}"


def _refusal(model: Model, pools: tuple[Pool, ...]) -> str | None:
    chosen = choose_target(model, names=resolve_names([model])[model.key], pools=pools, slots=())
    return chosen.message if isinstance(chosen, Refusal) else None
