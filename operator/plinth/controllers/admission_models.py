"""Judges an edit of a ModelDeployment by planning for it on a copy of the fleet."""

from __future__ import annotations

import math
from dataclasses import dataclass

from plinth.api.v1alpha1 import EngineChoice, ModelDeployment, Reason
from plinth.domain.engines import obstacle
from plinth.domain.fleet import (
    Artifact,
    Engine,
    FleetSnapshot,
    LoadWindow,
    Model,
    ModelFormat,
    ModelKey,
)
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.reading import read_model
from plinth.domain.naming import resolve_names
from plinth.domain.permissions import refuse_on
from plinth.domain.places import PlaceRefusal, find_place_in
from plinth.domain.pool_choice import choose_target
from plinth.domain.pools import Pool, resolve_pools
from plinth.domain.relations import ALONE, refuse_traffic, resolve_relations
from plinth.domain.sizing.refusals import refuse_asked, refuse_asked_on, refuse_degrees
from plinth.domain.targets import Refusal, Target
from plinth.domain.vllm_arguments import refuse_arguments
from plinth.domain.workload import asked_of

_WAITING = {Reason.READING_MODEL, Reason.NO_NODES}
"""Refusals of the planner that time alone may mend."""
_UNREADABLE = {Reason.MODEL_NOT_FOUND, Reason.MODEL_UNREADABLE, Reason.UNKNOWN_SOURCE}
"""Refusals that speak of what stands at the source now: it may be put there later."""
_OWN_FORMAT = {Engine.LLAMA_CPP: ModelFormat.GGUF, Engine.VLLM: ModelFormat.SAFETENSORS}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What speaks against an edit, and what its writer should know."""

    refusals: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def judge_model(new: ModelDeployment, old: ModelDeployment | None, fleet: FleetSnapshot) -> Verdict:
    """Whether the model can be served as asked, as far as can be told now."""
    found = _judge(new, fleet)
    if old is None or not found.refusals:
        return found
    known = _judge(old, fleet).refusals
    return Verdict(
        refusals=tuple(refusal for refusal in found.refusals if refusal not in known),
        warnings=(*(refusal for refusal in found.refusals if refusal in known), *found.warnings),
    )


def _judge(resource: ModelDeployment, fleet: FleetSnapshot) -> Verdict:
    """The first check that refuses decides; until then all may warn."""
    model = _as_newest(resource, fleet)
    warnings: tuple[str, ...] = ()
    for check in (_judge_name, _judge_relations, _judge_arguments, _judge_degree, _judge_pools):
        verdict = check(model, fleet)
        warnings += verdict.warnings
        if verdict.refusals:
            return Verdict(refusals=verdict.refusals, warnings=warnings)
    return Verdict(warnings=warnings)


def _judge_name(model: Model, fleet: FleetSnapshot) -> Verdict:
    """Whether it gets the name that it asks for, and who loses one by its coming."""
    others = [other for other in fleet.models if other.key != model.key]
    before, names = resolve_names(others), resolve_names([*others, model])
    if names[model.key].collision:
        return Verdict(refusals=(f"spec.servedName: {names[model.key].collision}",))
    lost = (each.key for each in others if names[each.key].collision and not before[each.key].collision)
    return Verdict(warnings=tuple(f"{key} loses a name by this: {names[key].collision}" for key in lost))


def _judge_relations(model: Model, fleet: FleetSnapshot) -> Verdict:
    """Whether it can take part in another's traffic as it asks. What waits for other models is only warned of."""
    others = [other for other in fleet.models if other.key != model.key]
    refusal = refuse_traffic(model, others)
    if refusal is not None:
        return Verdict(refusals=(refusal,))
    everybody = [*others, model]
    found = resolve_relations(everybody, resolve_names(everybody)).get(model.key, ALONE)
    return Verdict(warnings=tuple(fault.message for fault in found.faults))


def _judge_arguments(model: Model, _: FleetSnapshot) -> Verdict:
    """Whether the engine's arguments can be planned with, whatever the model is."""
    engine = model.resource.spec.engine
    refusal = None if engine.type is EngineChoice.LLAMA_CPP else refuse_arguments(engine.args)
    return Verdict(refusals=(refusal,) if refusal else ())


def _judge_degree(model: Model, _: FleetSnapshot) -> Verdict:
    """Whether the degrees asked for can split the model, wherever it runs; any model, where it is not read yet."""
    asked, architecture = asked_of(model.resource.spec.parallelism), _architecture(model)
    refusal = None
    if asked.is_anything:
        refusal = refuse_asked(architecture, asked) if architecture else refuse_degrees(asked)
    return Verdict(refusals=(refusal,) if refusal else ())


def _judge_pools(model: Model, fleet: FleetSnapshot) -> Verdict:
    """Whether one of the pools that the spec allows can run it, now or in time."""
    if not fleet.pools:
        return Verdict(warnings=("there is no GPUPool yet; the model waits until one is made",))
    pools, asked = resolve_pools(fleet.pools, fleet.nodes), model.resource.spec.pool
    named = tuple(pool for pool in pools if asked in {None, pool.name})
    able = [pool for pool in named if pool.serves(model.key.namespace)]
    if able:
        refusals = [_refusal_on(pool, model) for pool in able]
        # One that may run it is enough.
        return Verdict(refusals=tuple(dict.fromkeys(filter(None, refusals))) if all(refusals) else ())
    chosen = _choose(model, named or pools)
    why = chosen.message if isinstance(chosen, Refusal) else ""
    if asked is not None and named:
        return Verdict(refusals=(why,))
    return Verdict(warnings=(f"{why}; the model waits until there is one for it",))


def _choose(model: Model, pools: tuple[Pool, ...]) -> Target | Refusal:
    return choose_target(model, names=resolve_names([model])[model.key], pools=pools, slots=())


def _refusal_on(pool: Pool, model: Model) -> str | None:
    chosen = _choose(model, (pool,))
    if not isinstance(chosen, Refusal):
        return None
    if chosen.reason in _WAITING or chosen.reason in _UNREADABLE:
        return _obstacle_on(pool, model)
    return chosen.message


def _as_newest(resource: ModelDeployment, fleet: FleetSnapshot) -> Model:
    """The model as the planner would see it, but last in the order in which names are given out.

    An edit must not take a name away from who has it, even if its own resource is the older one.
    """
    key = ModelKey(resource.metadata.namespace, resource.metadata.name)
    return Model(
        key=key,
        resource=resource,
        first_seen=math.inf,
        artifact=_known_artifact(resource, fleet),
        answered_revision="",
        window=LoadWindow(),
        failure=None,
    )


def _known_artifact(resource: ModelDeployment, fleet: FleetSnapshot) -> Artifact | None:
    """What was read of the same source, for this model or another that may read it; None where nothing was."""
    asked = resource.spec.model
    for model in fleet.models:
        theirs = model.resource.spec.model
        same = (theirs.source, theirs.revision, theirs.credentials) == (
            *(asked.source, asked.revision, asked.credentials),
        )
        # What a token or a volume opens is told to its own namespace only.
        private = asked.credentials is not None or asked.source.startswith("pvc://")
        mine = model.key.namespace == resource.metadata.namespace
        if same and (mine or not private) and isinstance(model.artifact, Artifact):
            return model.artifact
    return None


def _architecture(model: Model) -> ModelArchitecture | None:
    artifact = model.artifact
    if not isinstance(artifact, Artifact):
        return None
    found = read_model(artifact.config, format=artifact.format, tensors=artifact.tensors)
    return found if isinstance(found, ModelArchitecture) else None


def _obstacle_on(pool: Pool, model: Model) -> str | None:
    """Why the model cannot run on a pool whatever its files hold; None where it may."""
    spec = model.resource.spec
    choice = spec.engine.type
    engines = list(Engine) if choice is EngineChoice.AUTO else [Engine(choice.value)]
    forbidden = refuse_on(pool, spec, engines)
    if forbidden is not None or not pool.nodes:
        return forbidden
    if len(engines) == 1:
        best = _OWN_FORMAT[engines[0]]
        why_not = obstacle(engines[0], model_format=best, source=spec.model.source, pool=pool)
        if why_not is not None:
            return f"spec.engine.type: {why_not}; Auto takes one that can, or set spec.pool to another pool"
    found = find_place_in(pool)
    if isinstance(found, PlaceRefusal):
        return None  # the planner says so once the model is read
    return refuse_asked_on(found.place, asked_of(spec.parallelism))
