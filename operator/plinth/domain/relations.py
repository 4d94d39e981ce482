"""What models have to do with each other by their specs: shares of traffic, aliases, fallbacks. Judged for all at once.

What one model says of another holds whichever of the two came first, and while the other is away it is no mistake:
the condition `Routed` tells of it, and it takes effect once the other is there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from plinth.api.v1alpha1 import ModelDeploymentSpec, Reason
from plinth.domain.fleet import Model, ModelKey
from plinth.domain.naming import ServedNames
from plinth.domain.traffic import TrafficShare

HUNDRED_PERCENT = 100
VERSION_MARK = "@"
"""Stands between a name and a version of it, see `gateway.surface.names`."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something of a spec that is not in effect; the message begins with the field."""

    reason: Reason
    message: str


@dataclass(frozen=True, kw_only=True)
class Relations:
    """One model's."""

    shares: tuple[TrafficShare, ...] = ()
    """What others take of its requests, in the order of their names."""
    faults: tuple[Fault, ...] = ()


ALONE = Relations()


class RelationMemory:
    """The relations found before, for as long as no spec says anything else."""

    def __init__(self) -> None:
        self._asked: list[tuple[ModelKey, float, ModelDeploymentSpec]] = []
        self._found: Mapping[ModelKey, Relations] = {}

    def resolve(
        self, models: Collection[Model], names: Mapping[ModelKey, ServedNames]
    ) -> Mapping[ModelKey, Relations]:
        """As `resolve_relations` has them; models that have none are left out."""
        asked = [(each.key, each.first_seen, each.resource.spec) for each in models]
        if asked != self._asked:
            self._asked, self._found = asked, resolve_relations(models, names)
        return self._found


def resolve_relations(
    models: Iterable[Model], names: Mapping[ModelKey, ServedNames]
) -> dict[ModelKey, Relations]:
    """The relations of all models that have any."""
    by_key = {model.key: model for model in sorted(models, key=lambda each: (each.first_seen, each.key))}
    faults: dict[ModelKey, list[Fault]] = {}
    shares = _shares(by_key, faults)
    holders: Mapping[str, list[Model]] | None = None
    for model in by_key.values():
        spec = model.resource.spec
        if spec.aliases or spec.fallbacks or spec.adapters:
            holders = _holders(by_key, names) if holders is None else holders
            faults.setdefault(model.key, []).extend((*_lost(model, names, holders), *_unfit(model, holders)))
    return {
        key: Relations(
            shares=tuple(sorted(shares.get(key, ()), key=lambda share: share.model)),
            faults=tuple(faults.get(key, ())),
        )
        for key in by_key
        if shares.get(key) or faults.get(key)
    }


def taken_of(models: Iterable[Model], key: ModelKey) -> tuple[int, int]:
    """What these models together ask of one model's requests, in percent: to answer, and to mirror."""
    found = [
        traffic
        for model in models
        if (traffic := model.resource.spec.traffic) and ModelKey(model.key.namespace, traffic.of) == key
    ]
    return sum(each.percent for each in found), sum(each.mirror_percent for each in found)


def refuse_traffic(model: Model, others: Iterable[Model]) -> str | None:
    """Why a model cannot take part as it asks, whatever order they were made in; None where it can, or may in time."""
    traffic, present = model.resource.spec.traffic, {each.key: each for each in others}
    if traffic is None:
        return None
    of = ModelKey(model.key.namespace, traffic.of)
    main = present.get(of)
    if main is not None and main.resource.spec.traffic is not None:
        return (
            f"spec.traffic.of: {of} takes part in the requests of {main.resource.spec.traffic.of} itself; "
            f"name {main.resource.spec.traffic.of}, or remove spec.traffic of {of}"
        )
    partner = next((each for each in present.values() if _takes_part_in(each, model.key)), None)
    if partner is not None:
        return (
            f"spec.traffic: {partner.key} takes part in this model's requests, so it cannot take part in those of "
            f"another; remove spec.traffic here or of {partner.key}"
        )
    # One sum for each: what is answered and what is copied have nothing to do with each other.
    fields = ("percent", "mirrorPercent")
    asked = (traffic.percent, traffic.mirror_percent)
    for field, mine, theirs in zip(fields, asked, taken_of(present.values(), of), strict=True):
        if mine and mine + theirs > HUNDRED_PERCENT:
            left = max(0, HUNDRED_PERCENT - theirs)
            return (
                f"spec.traffic.{field}: {mine} with the {theirs} that other models take of {of} is above 100; "
                f"ask for {left} at most"
            )
    return None


def _takes_part_in(model: Model, key: ModelKey) -> bool:
    traffic = model.resource.spec.traffic
    return traffic is not None and ModelKey(model.key.namespace, traffic.of) == key


def _shares(
    by_key: Mapping[ModelKey, Model], faults: dict[ModelKey, list[Fault]]
) -> dict[ModelKey, list[TrafficShare]]:
    """Who takes what of whom. Where a sum is above all, those seen first have theirs and the next has none."""
    shares: dict[ModelKey, list[TrafficShare]] = {}
    taking: dict[ModelKey, list[Model]] = {}
    for model in by_key.values():
        traffic = model.resource.spec.traffic
        if traffic is None:
            continue
        of = ModelKey(model.key.namespace, traffic.of)
        fault = _why_apart(model, of, by_key, (*taking.get(of, ()), *taking.get(model.key, ())))
        if fault is not None:
            faults.setdefault(model.key, []).append(fault)
            continue
        taking.setdefault(of, []).append(model)
        share = TrafficShare(
            model=str(model.key), percent=traffic.percent, mirror_percent=traffic.mirror_percent
        )
        shares.setdefault(of, []).append(share)
    return shares


def _why_apart(
    model: Model, of: ModelKey, by_key: Mapping[ModelKey, Model], taking: Iterable[Model]
) -> Fault | None:
    """Why a model takes nothing; `taking` are those that take part of the same model's requests, or of its own."""
    main, task = by_key.get(of), model.resource.spec.model.task
    if main is None:
        message = f"spec.traffic.of: there is no ModelDeployment {of} yet"
        return Fault(reason=Reason.UNKNOWN_MODEL, message=message)
    if main.resource.spec.model.task is not task:
        tasks = f"{of} is asked to {main.resource.spec.model.task}, this model to {task}"
        return Fault(reason=Reason.TRAFFIC_UNSHARED, message=f"spec.traffic.of: {tasks}")
    refusal = refuse_traffic(model, (*taking, main))
    return Fault(reason=Reason.TRAFFIC_UNSHARED, message=refusal) if refusal else None


def _holders(
    by_key: Mapping[ModelKey, Model], names: Mapping[ModelKey, ServedNames]
) -> Mapping[str, list[Model]]:
    """Models by the names that they answer to, in the order in which a name is given: own names, aliases, versions.

    The gateway decides anew for each caller (`gateway.surface.names`): a tenant's own models come first.
    """
    in_order = sorted(by_key.values(), key=lambda model: model.key)
    holders: dict[str, list[Model]] = {}
    for model in in_order:
        for name in (*names[model.key].names, *_adapter_names(model, names)):
            holders.setdefault(name, []).append(model)
    for model in in_order:
        for name in model.resource.spec.aliases:
            holders.setdefault(name, []).append(model)
    for model in in_order:
        for name in model.resource.spec.aliases:
            if VERSION_MARK in name:
                holders.setdefault(name.partition(VERSION_MARK)[0], []).append(model)
    return holders


def _adapter_names(model: Model, names: Mapping[ModelKey, ServedNames]) -> list[str]:
    """See `EngineSpec.adapter_names`."""
    return [f"{names[model.key].names[0]}:{each.name}" for each in model.resource.spec.adapters]


def _lost(
    model: Model, names: Mapping[ModelKey, ServedNames], holders: Mapping[str, list[Model]]
) -> Iterator[Fault]:
    """Names beside its own that lead elsewhere, for callers of the model's own namespace."""
    further = [("spec.aliases", name) for name in model.resource.spec.aliases]
    further += [("spec.adapters", name) for name in _adapter_names(model, names)]
    for field, name in further:
        winner = _first_of(holders.get(name, []), model.key.namespace)
        if winner is not None and winner.key != model.key:
            message = f"{field}: {winner.key} answers to {name}; remove it here or there"
            yield Fault(reason=Reason.NAME_TAKEN, message=message)


def _unfit(model: Model, holders: Mapping[str, list[Model]]) -> Iterator[Fault]:
    """Fallbacks that will never answer."""
    for name in model.resource.spec.fallbacks:
        other = _first_of(holders.get(name, []), model.key.namespace)
        task = model.resource.spec.model.task
        if other is None:
            yield Fault(
                reason=Reason.UNKNOWN_MODEL, message=f"spec.fallbacks: no model answers to {name} yet"
            )
        elif other.key == model.key:
            yield Fault(
                reason=Reason.UNKNOWN_MODEL, message=f"spec.fallbacks: {name} is this model; remove it"
            )
        elif other.resource.spec.model.task is not task:
            message = (
                f"spec.fallbacks: {name} is asked to {other.resource.spec.model.task}, this model to {task}"
            )
            yield Fault(reason=Reason.UNKNOWN_MODEL, message=message)


def _first_of(models: Iterable[Model], namespace: str) -> Model | None:
    found = list(models)
    return next((each for each in found if each.key.namespace == namespace), found[0] if found else None)
