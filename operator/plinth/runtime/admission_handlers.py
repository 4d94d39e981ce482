"""kopf's admission handlers: they unpack a review, ask `controllers.admission`, and pass its words on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kopf

from plinth.api.v1alpha1 import GROUP, VERSION
from plinth.cluster.kube.kinds import GPU_POOL, MODEL_DEPLOYMENT, QUOTA_POLICY
from plinth.controllers.admission import AdmissionDecision, check_form, default, validate
from plinth.domain.fleet import FleetSnapshot

REFUSED = 422


def register_admission(registry: kopf.OperatorRegistry, fleet: Callable[[], FleetSnapshot]) -> None:
    """Add the handlers of both webhooks; `fleet` gives the fleet as the caches have it at the moment of asking."""

    async def validating(*, warnings: list[str], **review: Any) -> None:
        new, old = review["new"], review["old"]
        if new is not None:
            _pass_on(validate(dict(new), old and dict(old), fleet()), warnings)

    async def mutating(*, patch: kopf.Patch, warnings: list[str], **review: Any) -> None:
        new, old = review["new"], review["old"]
        if new is not None:
            _pass_on(check_form(dict(new), old and dict(old)), warnings)
            patch.update(default(dict(new)))

    for kind in (GPU_POOL, MODEL_DEPLOYMENT, QUOTA_POLICY):
        kopf.on.validate(GROUP, VERSION, kind.plural, id="validate", registry=registry)(validating)
        kopf.on.mutate(GROUP, VERSION, kind.plural, id="mutate", registry=registry)(mutating)


def _pass_on(decision: AdmissionDecision, warnings: list[str]) -> None:
    warnings += decision.warnings
    if decision.refusals:
        raise kopf.AdmissionError(decision.message, code=REFUSED)
