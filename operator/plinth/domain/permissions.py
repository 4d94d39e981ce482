"""What the owner of a pool allows the models on it: code of their own, and which volumes they may read.

One answer for the planner, which asks before it chooses a shape, and for admission, which asks before it takes the
spec. Which namespaces a pool serves at all is `Pool.serves`.
"""

from __future__ import annotations

from collections.abc import Iterable

from plinth.api.v1alpha1 import ModelDeploymentSpec
from plinth.domain.engine_args import refuse_reaching
from plinth.domain.fleet import Engine
from plinth.domain.pools import Pool

VOLUME_SCHEME = "pvc://"


def refuse_on(pool: Pool, spec: ModelDeploymentSpec, engines: Iterable[Engine]) -> str | None:
    """Why the pool's owner forbids this, with what would work; None where nothing is forbidden.

    `engines` are those that may run the model.
    """
    for engine in engines:
        refusal = refuse_reaching(engine, spec.engine.args, pool=pool.name, allowed=pool.trusts_code)
        if refusal is not None:
            return refusal
    sources = [("spec.model.source", spec.model.source)]
    sources += [(f"spec.adapters[{at}].source", each.source) for at, each in enumerate(spec.adapters)]
    refusals = (_refuse_volume(pool, field, source) for field, source in sources)
    return next(filter(None, refusals), None)


def _refuse_volume(pool: Pool, field: str, source: str) -> str | None:
    if not source.startswith(VOLUME_SCHEME):
        return None
    claim = source.removeprefix(VOLUME_SCHEME).partition("/")[0]
    if not pool.namespace:
        return (
            f"{field}: {VOLUME_SCHEME} needs a pool with a namespace of its own, and GPUPool {pool.name}"
            f" serves all; use one whose spec.namespace is the model's and whose spec.volumes has the claim {claim}"
        )
    if claim not in pool.claims:
        have = f"has {', '.join(sorted(pool.claims))}" if pool.claims else "is empty"
        return (
            f"{field}: GPUPool {pool.name} does not mount the claim {claim}, its spec.volumes {have};"
            " add the claim there"
        )
    return None
