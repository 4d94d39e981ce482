"""Decides whether an edit is taken, before it is stored: the first of the two places where users hear no.

The second is the planner, which sees what admission let through or never saw (the webhook may be away, and a cluster
changes after an edit was taken). Both call the same functions on the same snapshot, so they use the same words.

What is refused, and what is only warned of:

- Refused is what breaks the resource's own rules, and what contradicts a thing that exists: a name that is taken, a
  shape that no node of the pool can hold, a pool that serves another namespace.
- Warned of is what a later edit of something else can mend: a pool that is not there yet. A folder of manifests is
  applied in any order, and GitOps would stop at the first refusal.
- Never refused is an edit that leaves the spec as it is (labels, finalizers), nor a fault that the old version
  already had: whoever mends one thing of two must be let through.

Defaults: the schema has all that can be said without looking at other fields. Left is `servedName`, which is the
resource's name unless it is given; written out, it answers which name clients ask for, and as a resource is never
renamed it never grows stale. `objectives.inputTokens` and `outputTokens` are left absent on purpose: they follow
`contextTokens`, and once written into a spec they would stay behind at its next edit, or have it refused.

Pure: the server that asks is `runtime.admission_server`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plinth.api.v1alpha1 import (
    GPUPool,
    InvalidResourceError,
    ModelDeployment,
    QuotaPolicy,
    parse_resource,
)
from plinth.api.v1alpha1.resources import AnyResource
from plinth.controllers.admission_models import judge_model
from plinth.controllers.admission_policies import judge_policy
from plinth.controllers.admission_pools import judge_pool
from plinth.domain.fleet import FleetSnapshot

Manifest = Mapping[str, Any]

_NAME_TO_COME = "00000"
"""What stands for the letters that the API server will add to a `generateName`."""


@dataclass(frozen=True, kw_only=True)
class AdmissionDecision:
    """Taken when nothing is refused."""

    refusals: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """The refusals as kubectl prints those of the API server: one after the other, or as a list."""
        if len(self.refusals) == 1:
            return self.refusals[0]
        return "".join(f"\n* {refusal}" for refusal in self.refusals)


def check_form(new: Manifest, old: Manifest | None) -> AdmissionDecision:
    """Whether the resource keeps the rules of its kind, in fuller words than the API server's own schema has.

    Asked before the API server checks the schema, while it lets webhooks change the resource.
    """
    faults = _faults(new)
    known = set(_faults(old)) if old is not None else set()
    return AdmissionDecision(
        refusals=tuple(fault for fault in faults if fault not in known),
        warnings=tuple(fault for fault in faults if fault in known),
    )


def default(new: Manifest) -> dict[str, Any]:
    """What is to be set in the resource, as a merge patch; empty where nothing is."""
    spec, name = new.get("spec"), (new.get("metadata") or {}).get("name")
    if new.get("kind") != "ModelDeployment" or not isinstance(spec, Mapping) or not name:
        return {}
    return {} if spec.get("servedName") else {"spec": {"servedName": name}}


def validate(new: Manifest, old: Manifest | None, fleet: FleetSnapshot) -> AdmissionDecision:
    """Whether the edit is taken, given the fleet as it is; `old` is what it replaces, None for a new resource."""
    if old is not None and old.get("spec") == new.get("spec"):
        return AdmissionDecision()
    form = check_form(new, old)
    resource = _parsed(new)
    if resource is None:  # refused, or an old fault that has to be mended before more can be said
        return form
    before = _parsed(old) if old is not None else None
    if isinstance(resource, GPUPool):
        verdict = judge_pool(resource, before if isinstance(before, GPUPool) else None, fleet)
    elif isinstance(resource, QuotaPolicy):
        verdict = judge_policy(resource, fleet)
    else:
        verdict = judge_model(resource, before if isinstance(before, ModelDeployment) else None, fleet)
    return AdmissionDecision(refusals=tuple(verdict.refusals), warnings=tuple(verdict.warnings))


def _faults(manifest: Manifest) -> list[str]:
    try:
        parse_resource(_named(manifest))
    except InvalidResourceError as error:
        return [str(fault) for fault in error.errors]
    return []


def _parsed(manifest: Manifest) -> AnyResource | None:
    try:
        return parse_resource(_named(manifest))
    except InvalidResourceError:
        return None


def _named(manifest: Manifest) -> Manifest:
    """The manifest with the name that the API server will have given it."""
    metadata = manifest.get("metadata") or {}
    if "name" in metadata or "generateName" not in metadata:
        return manifest
    return {**manifest, "metadata": {**metadata, "name": f"{metadata['generateName']}{_NAME_TO_COME}"}}
