"""What a model's replicas should be: pool, engine and shape put together into an EngineSpec, or why there is none.

Where nothing new can be made of a model (being read, refused, impossible), what runs of it goes on: `running_target`
is then the target, so scaling and healing work as before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from plinth.api.v1alpha1 import ConditionType, ModelDeploymentSpec, Objectives, Reason
from plinth.domain.engines import EngineDecision, EngineRefusal, choose_engine
from plinth.domain.figures import Prediction
from plinth.domain.fitting import Fit, FitRefusal, FitRequest
from plinth.domain.fleet import (
    Artifact,
    ArtifactRefusal,
    Engine,
    EngineSpec,
    Model,
    ModelKey,
    Needs,
    Slot,
    SlotPhase,
)
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.naming import ServedNames
from plinth.domain.permissions import refuse_on
from plinth.domain.places import PlaceRefusal
from plinth.domain.pools import Pool
from plinth.domain.revisions import make_engine_spec, revision_of
from plinth.domain.shared_work import SharedWork
from plinth.domain.sizing.goals import Promise
from plinth.domain.sizing.shape import Rejected
from plinth.domain.vllm_arguments import (
    as_asked,
    changes_weights,
    refuse_arguments,
    refuse_dtype_on,
    refuse_for,
)
from plinth.domain.workload import as_loaded, file_bytes_of, make_sizing_request

DEFAULT_CONTEXT_TOKENS: int = Objectives().context_tokens
SPEC_REASONS = {
    *(Reason.UNKNOWN_SOURCE, Reason.POOL_NOT_FOUND, Reason.NAME_COLLISION),
    *(Reason.NOT_ALLOWED, Reason.INVALID_SPEC),
}
"""Refusals that only an edit of the spec can mend: they speak against `Accepted`, all others against `Planned`."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What every replica of a model should be."""

    spec: EngineSpec
    revision: str
    needs: Needs
    pool: Pool
    sentences: tuple[str, ...]
    """Engine, shape and what was not chosen."""
    prediction: Prediction | None = None
    """What a replica should measure, as computed; None of what runs on without a plan."""
    rejected: tuple[Rejected, ...] = ()
    """Shapes that were not chosen."""
    promise: Promise | None = None
    """What is to be expected of the objectives; None where nobody can tell."""
    waits_for_room: bool = False
    """It would move to another pool as soon as that has room: what becomes of it hangs on what others do."""

    @property
    def users(self) -> int:
        """Requests at once that a replica is to carry: those of the spec, or as many as it can serve within its goals.

        Where it meets them for nobody, more replicas would not help.
        """
        within = self.promise.users if self.promise else 0
        return within or self.spec.concurrency


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why there is no target; `known` is False while it is only a matter of waiting."""

    reason: Reason
    message: str
    known: bool = True

    @property
    def condition(self) -> ConditionType:
        """The condition that this speaks against."""
        return ConditionType.ACCEPTED if self.reason in SPEC_REASONS else ConditionType.PLANNED


class TargetMemory:
    """What was chosen before, for as long as nothing changes that it depends on: most of a fleet, on most passes."""

    def __init__(self) -> None:
        self._known: dict[tuple[ModelKey, str], tuple[_Basis, Target | Refusal]] = {}
        self._shared = SharedWork()

    def target_on(self, pool: Pool, model: Model, names: ServedNames) -> Target | Refusal:
        """The target on one pool. The memory makes no difference to it."""
        speed = model.correction.thousandths
        basis = _Basis(model.resource.spec, model.artifact, names, pool.sample, speed)
        known = self._known.get((model.key, pool.name))
        if known is None or not known[0].is_like(basis):
            known = self._known[model.key, pool.name] = (
                basis,
                _target_on(model, names, pool.sample, self._shared),
            )
        found = known[1]
        return replace(found, pool=pool) if isinstance(found, Target) else found

    def forget_all_but(self, models: Iterable[ModelKey]) -> None:
        """Drop what is kept of models that are gone."""
        kept = set(models)
        for gone in [each for each in self._known if each[0] not in kept]:
            del self._known[gone]


class _Basis(NamedTuple):
    """All that a target depends on."""

    spec: ModelDeploymentSpec
    artifact: Artifact | ArtifactRefusal | None
    names: ServedNames
    sample: Pool
    speed_permille: int

    def is_like(self, other: _Basis) -> bool:
        """Whether nothing has changed. A spec and an artifact are read anew when they may have."""
        if self.spec is not other.spec or self.artifact is not other.artifact:
            return False
        return self[2:] == other[2:]


def running_target(slots: Iterable[Slot], pools: tuple[Pool, ...]) -> Target | None:
    """What runs, as a target: the spec of the newest replica, a ready one first. None when nothing readable runs."""
    able = [slot for slot in slots if slot.spec is not None and slot.phase is not SlotPhase.STOPPING]
    newest = max(able, key=lambda slot: (slot.phase is SlotPhase.READY, slot.since, slot.name), default=None)
    if newest is None or newest.spec is None:
        return None
    home = newest.running_on or newest.node_id
    pool = next((pool for pool in pools if home in pool.node_ids), pools[0])
    # The name says which revision runs, also when an older version of this program wrote the spec.
    return Target(
        spec=newest.spec,
        revision=newest.name.revision,
        needs=newest.needs,
        pool=pool,
        sentences=("what runs goes on",),
    )


def _readable(model: Model, shared: SharedWork) -> ModelArchitecture | Refusal:
    artifact = model.artifact
    if artifact is None:
        message = "the model's configuration is being read"
        return Refusal(reason=Reason.READING_MODEL, message=message, known=False)
    found = artifact if isinstance(artifact, ArtifactRefusal) else shared.read(artifact)
    if isinstance(found, ArtifactRefusal):
        return Refusal(reason=Reason(found.reason), message=found.message)
    return found


def _engine_on(pool: Pool, spec: ModelDeploymentSpec, artifact: Artifact) -> EngineDecision | Refusal:
    """The engine that runs the model there, if the pool's owner lets it and its arguments can be planned with."""
    engine = choose_engine(
        choice=spec.engine.type,
        model_format=artifact.format,
        source=spec.model.source,
        pool=pool,
        adapters=bool(spec.adapters),
    )
    if isinstance(engine, EngineRefusal):
        return Refusal(reason=Reason.ENGINE_UNSUITABLE, message=engine.message)
    forbidden = refuse_on(pool, spec, [engine.engine])
    if forbidden is not None:
        return Refusal(reason=Reason.NOT_ALLOWED, message=forbidden)
    faulty = refuse_arguments(spec.engine.args) if engine.engine is Engine.VLLM else None
    if faulty is not None:
        return Refusal(reason=Reason.INVALID_SPEC, message=faulty)
    return engine


def _target_on(model: Model, names: ServedNames, pool: Pool, shared: SharedWork) -> Target | Refusal:
    """The target on one pool; each guard is one reason why not."""
    spec, artifact, architecture = model.resource.spec, model.artifact, _readable(model, shared)
    if isinstance(architecture, Refusal):
        return architecture
    if not pool.nodes or artifact is None or isinstance(artifact, ArtifactRefusal):
        return Refusal(reason=Reason.NO_NODES, message=f"pool {pool.name} has no nodes at present")
    engine = _engine_on(pool, spec, artifact)
    if isinstance(engine, Refusal):
        return engine
    context = _context_tokens(spec.objectives, architecture)
    if isinstance(context, Refusal):
        return context
    loaded = as_loaded(architecture, artifact.format, spec.model.task, engine.engine)
    fit = _fit_on(pool, model, loaded, engine=engine.engine, context_tokens=context, shared=shared)
    if isinstance(fit, Refusal):
        return fit
    engine_spec = make_engine_spec(
        model.resource,
        engine=engine.engine,
        fit=fit,
        context_tokens=context,
        served_names=names.names,
        utilization_percent=pool.utilization_percent,
    )
    return Target(
        spec=engine_spec,
        revision=revision_of(engine_spec),
        needs=_needs(fit, pool),
        pool=pool,
        sentences=_sentences(engine.reason, fit, context, spec.objectives),
        prediction=fit.prediction,
        promise=fit.promise,
        rejected=fit.rejected,
    )


def _fit_on(
    pool: Pool,
    model: Model,
    loaded: ModelArchitecture,
    *,
    engine: Engine,
    context_tokens: int,
    shared: SharedWork,
) -> Fit | Refusal:
    """The replica that fits the pool's nodes."""
    found = shared.place_in(pool, engine)
    if isinstance(found, PlaceRefusal):
        return Refusal(reason=Reason.SHAPE_IMPOSSIBLE, message=found.message)
    args = model.resource.spec.engine.args if engine is Engine.VLLM else {}
    refusal = refuse_for(loaded, args) or refuse_dtype_on(found.place.accelerator, loaded, args)
    if refusal is not None:
        return Refusal(reason=Reason.INVALID_SPEC, message=refusal)
    sizing = make_sizing_request(
        model.resource.spec,
        as_asked(loaded, args),
        found.place,
        engine=engine,
        context_tokens=context_tokens,
        speed_permille=model.correction.thousandths,
    )
    request = FitRequest(
        sizing=sizing,
        file_bytes=0 if changes_weights(args) else file_bytes_of(model.artifact, engine),
        threads=found.threads,
        knows_speed=found.knows_speed,
    )
    fit = shared.fit(request)
    if isinstance(fit, FitRefusal):
        return Refusal(reason=Reason.SHAPE_IMPOSSIBLE, message=fit.message)
    return replace(fit, sentences=(*fit.sentences, found.note)) if found.note else fit


def _context_tokens(objectives: Objectives, architecture: ModelArchitecture) -> int | Refusal:
    """The context to plan for. The default gives way to a shorter model; a longer one asked for is refused."""
    most = architecture.max_context_tokens
    if most == 0 or objectives.context_tokens <= most:
        return objectives.context_tokens
    if objectives.context_tokens == DEFAULT_CONTEXT_TOKENS:
        return most
    asked = objectives.context_tokens
    message = f"spec.objectives.contextTokens: {asked} exceeds the model's {most}; {most} would do"
    return Refusal(reason=Reason.SHAPE_IMPOSSIBLE, message=message)


def _needs(fit: Fit, pool: Pool) -> Needs:
    if pool.is_cpu:
        return Needs(accelerators=0, memory_bytes=fit.memory_bytes)
    return Needs(
        accelerators=fit.shape.accelerators // fit.nodes,
        memory_bytes=0,
        nodes=fit.nodes,
        stages=fit.shape.pipeline // fit.nodes,
    )


def _sentences(engine_reason: str, fit: Fit, context_tokens: int, objectives: Objectives) -> tuple[str, ...]:
    sentences = (engine_reason, *fit.sentences)
    if context_tokens != objectives.context_tokens:
        return (*sentences, f"context {context_tokens} tokens: all that the model has")
    return sentences
