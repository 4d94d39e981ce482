"""What a replica is told, and its digest, the revision: equal specs have equal revisions on every machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json

from plinth.api.v1alpha1 import ModelDeployment
from plinth.domain.fitting import Fit
from plinth.domain.fleet import Engine, EngineSpec
from plinth.domain.sizing.engine_defaults import adapter_rank

REVISION_DIGITS = 8
_KNOWN: dict[type[EngineSpec], tuple[tuple[str, object], ...]] = {}


def make_engine_spec(
    resource: ModelDeployment,
    *,
    engine: Engine,
    fit: Fit,
    context_tokens: int,
    served_names: tuple[str, ...],
    utilization_percent: int,
) -> EngineSpec:
    """Everything that decides what a replica answers. Replica counts are not in it: scaling is no new revision."""
    model = resource.spec.model
    secret = model.credentials
    return EngineSpec(
        engine=engine,
        source=model.source,
        source_revision=model.revision,
        credentials=f"{secret.name}/{secret.key}" if secret else None,
        task=model.task,
        served_names=served_names,
        context_tokens=context_tokens,
        concurrency=resource.spec.objectives.concurrency,
        tensor_parallel=fit.shape.tensor,
        threads=fit.threads,
        memory_utilization_percent=utilization_percent,
        memory_bytes=fit.memory_bytes,
        kv_bytes=fit.kv_bytes,
        args=dict(resource.spec.engine.args),
        pipeline_parallel=fit.shape.pipeline,
        expert_parallel=fit.shape.expert,
        data_parallel=fit.shape.data,
        adapters={each.name: each.source for each in resource.spec.adapters},
        adapter_rank=adapter_rank(each.rank for each in resource.spec.adapters),
        adapter_bytes=fit.adapter_bytes,
    )


def revision_of(spec: EngineSpec) -> str:
    """Eight hex digits of the SHA-256 of the spec as JSON with sorted keys.

    Fields at their default are left out, so that a field added in a later version is no new revision by itself.
    """
    told = {
        name: value for name, default in _defaults(type(spec)) if (value := getattr(spec, name)) != default
    }
    canonical = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:REVISION_DIGITS]


def _defaults(kind: type[EngineSpec]) -> tuple[tuple[str, object], ...]:
    """Names of fields with their defaults; looked up once."""
    found = _KNOWN.get(kind)
    if found is None:
        found = _KNOWN[kind] = tuple((field.name, _default(field)) for field in dataclasses.fields(kind))
    return found


def _default(field: dataclasses.Field[object]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
