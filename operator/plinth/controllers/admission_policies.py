"""Judges an edit of a QuotaPolicy: the models it names may come later, so one that is missing is only warned of."""

from __future__ import annotations

from itertools import islice

from plinth.api.v1alpha1 import QuotaPolicy
from plinth.controllers.admission_models import Verdict
from plinth.domain.fleet import FleetSnapshot, ModelKey

MOST_MODELS_NAMED = 5


def judge_policy(new: QuotaPolicy, fleet: FleetSnapshot) -> Verdict:
    """What the policy would open that is not there."""
    namespace = new.metadata.namespace
    known = {model.key for model in fleet.models} | fleet.unreadable
    missing = (name for name in new.spec.models if ModelKey(namespace, name) not in known)
    return Verdict(
        warnings=tuple(
            f"spec.models: there is no ModelDeployment {namespace}/{name} yet"
            for name in islice(missing, MOST_MODELS_NAMED)
        )
    )
