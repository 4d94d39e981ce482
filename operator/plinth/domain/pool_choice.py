"""Which of the pools that a model may use it runs on: every one is planned for, and the best offer taken.

spec.pool, namespaces -> open pools -> a target on each -> offers in order -> the target
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from plinth.api.v1alpha1 import Reason
from plinth.domain.fleet import Model, Slot, SlotPhase
from plinth.domain.naming import ServedNames
from plinth.domain.offers import Offer, rank
from plinth.domain.pools import Pool
from plinth.domain.targets import Refusal, Target, TargetMemory
from plinth.domain.vacancies import Vacancies


def choose_target(
    model: Model,
    *,
    names: ServedNames,
    pools: tuple[Pool, ...],
    slots: Collection[Slot],
    memory: TargetMemory | None = None,
    vacancies: Vacancies | None = None,
) -> Target | Refusal:
    """The target on the pool that offers the model most, see `offers`. Without vacancies, every pool has room."""
    if names.collision:
        return Refusal(reason=Reason.NAME_COLLISION, message=names.collision)
    able = _open_pools(model, pools)
    if isinstance(able, Refusal):
        return able
    memory = memory or TargetMemory()
    found = [memory.target_on(pool, model, names) for pool in able]
    targets = {target.pool.name: target for target in found if isinstance(target, Target)}
    if len(targets) == 1:
        return next(iter(targets.values()))
    if targets:
        return _best_of(targets, model, slots, vacancies)
    refusals = [target for target in found if isinstance(target, Refusal)]
    message = "; ".join(dict.fromkeys(refusal.message for refusal in refusals))
    return Refusal(
        reason=refusals[0].reason, message=message, known=any(refusal.known for refusal in refusals)
    )


def _best_of(
    targets: Mapping[str, Target], model: Model, slots: Iterable[Slot], vacancies: Vacancies | None
) -> Target:
    staying = [slot for slot in slots if slot.phase is not SlotPhase.STOPPING]
    homes = frozenset(node_id for slot in staying for node_id in slot.nodes)
    replicas = max(1, len(staying), model.resource.spec.scaling.min_replicas)
    offers = [
        Offer(
            pool=name,
            shape=str(target.spec.shape),
            accelerators=target.spec.shape.accelerators,
            promise=target.promise,
            closing=target.pool.deleted,
            home=not homes.isdisjoint(target.pool.node_ids),
            room=vacancies is None or vacancies.count(target.pool, target.needs) >= replicas,
        )
        for name, target in targets.items()
    ]
    # What was measured here says nothing of other pools, only that what is computed need not be so.
    ranking = rank(offers, trusted=model.correction.stretches == 0)
    first = targets[ranking.offers[0].pool]
    sentences = (first.sentences[0], *ranking.sentences, *first.sentences[1:])
    return replace(first, sentences=sentences, waits_for_room=ranking.waits)


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
