"""Which of the pools that a model may use it runs on: every one is planned for, and the best offer taken.

spec.pool, namespaces -> open pools -> a target on each -> offers in order -> the target, and what it could be elsewhere
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from plinth.api.v1alpha1 import Reason
from plinth.domain.fleet import Model, Slot, SlotPhase
from plinth.domain.naming import ServedNames
from plinth.domain.offers import Offer, describe_ranking, rank
from plinth.domain.pools import Pool
from plinth.domain.targets import Refusal, Target, TargetMemory


def choose_target(
    model: Model,
    *,
    names: ServedNames,
    pools: tuple[Pool, ...],
    slots: Iterable[Slot],
    memory: TargetMemory | None = None,
) -> Target | Refusal:
    """The target on the pool that offers the model most, see `offers`; with what it could be elsewhere."""
    if names.collision:
        return Refusal(reason=Reason.NAME_COLLISION, message=names.collision)
    able = _open_pools(model, pools)
    if isinstance(able, Refusal):
        return able
    memory = memory or TargetMemory()
    homes = {slot.running_on or slot.node_id for slot in slots if slot.phase is not SlotPhase.STOPPING}
    found = {pool.name: memory.target_on(pool, model, names) for pool in able}
    targets = {name: target for name, target in found.items() if isinstance(target, Target)}
    if targets:
        offers = [_offer(target, homes) for target in targets.values()]
        # What was measured here says nothing of other pools, only that what is computed need not be so.
        ranked = rank(offers, trusted=model.correction.stretches == 0)
        return _chosen(ranked, targets)
    refusals = [target for target in found.values() if isinstance(target, Refusal)]
    message = "; ".join(dict.fromkeys(refusal.message for refusal in refusals))
    return Refusal(
        reason=refusals[0].reason, message=message, known=any(refusal.known for refusal in refusals)
    )


def _offer(target: Target, homes: set[str]) -> Offer:
    pool = target.pool
    return Offer(
        pool=pool.name,
        shape=str(target.spec.shape),
        accelerators=target.spec.shape.accelerators,
        promise=target.promise,
        closing=pool.deleted,
        home=not homes.isdisjoint(pool.node_ids),
    )


def _chosen(ranked: list[Offer], targets: Mapping[str, Target]) -> Target:
    first, *others = (targets[offer.pool] for offer in ranked)
    if not others:
        return first
    sentences = (first.sentences[0], *describe_ranking(ranked), *first.sentences[1:])
    return replace(first, sentences=sentences, elsewhere=tuple(others))


def _open_pools(model: Model, pools: tuple[Pool, ...]) -> list[Pool] | Refusal:
    """The pools that the model may run on."""
    asked, namespace = model.resource.spec.pool, model.key.namespace
    named = [pool for pool in pools if asked in {None, pool.name}]
    if not named:
        have = ", ".join(pool.name for pool in pools)
        message = f"spec.pool: there is no GPUPool {asked}; there is {have}"
        return Refusal(reason=Reason.POOL_NOT_FOUND, message=message)
    able = [pool for pool in named if pool.serves(namespace)]
    if not able:
        whose = ", ".join(f"{pool.name} serves {pool.namespace} only" for pool in named)
        message = (
            f"spec.pool: no GPUPool serves the namespace {namespace}: {whose};"
            f" use one whose spec.namespace is {namespace} or absent"
        )
        return Refusal(reason=Reason.POOL_NOT_FOUND, message=message)
    return able
