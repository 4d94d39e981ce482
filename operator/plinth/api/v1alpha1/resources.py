"""From a document to a resource: what kind it is, whether it is one of ours, and all that is wrong with it.

The folder, admission and `plinth plan FILE` all come through here, so that each refuses the same things in the
same words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from plinth.api.v1alpha1.errors import (
    FieldError,
    InvalidResourceError,
    explain,
    nearest,
    shown,
    unknown_choice,
    unknown_field,
)
from plinth.api.v1alpha1.gpupool import GPUPool
from plinth.api.v1alpha1.meta import API_VERSION, GROUP, ResourceKey
from plinth.api.v1alpha1.modeldeployment import ModelDeployment
from plinth.api.v1alpha1.quotapolicy import QuotaPolicy

AnyResource = GPUPool | ModelDeployment | QuotaPolicy

KINDS: dict[str, type[AnyResource]] = {
    "GPUPool": GPUPool,
    "ModelDeployment": ModelDeployment,
    "QuotaPolicy": QuotaPolicy,
}
CLUSTER_WIDE = frozenset({"GPUPool"})
METADATA_FIELDS = (
    *("name", "namespace", "labels", "annotations", "generation", "generateName", "uid", "resourceVersion"),
    *("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"),
    *("ownerReferences", "finalizers", "managedFields", "selfLink"),
)
"""All that Kubernetes knows; only the first ones mean something to Plinth."""


def parse_resource(document: Mapping[str, Any]) -> AnyResource:
    """The resource that a document of ours describes; its `status` is not read, that is Plinth's to write.

    Raises InvalidResourceError with every fault found.
    """
    kind = document.get("kind")
    faults = kind_faults(document)
    if faults or not isinstance(kind, str):
        raise InvalidResourceError(faults)
    asked = {name: value for name, value in document.items() if name != "status"}
    model = KINDS[kind]
    faults = list(_metadata_faults(document.get("metadata")))
    try:
        resource = model.model_validate(asked, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidResourceError([*faults, *explain(error, model)]) from None
    if faults:
        raise InvalidResourceError(faults)
    return resource


def _metadata_faults(metadata: Any) -> Iterator[FieldError]:
    for name in metadata if isinstance(metadata, Mapping) else ():
        if name not in METADATA_FIELDS:
            yield unknown_field(("metadata", str(name)), METADATA_FIELDS)


def is_ours(document: Mapping[str, Any]) -> bool:
    """Whether the document means to be a resource of this group, with its slips of the fingers.

    Another group's kind is not ours even when it is called ModelDeployment.
    """
    version, kind = document.get("apiVersion"), document.get("kind")
    if not isinstance(version, str):
        return kind in KINDS or {"spec", "metadata"} <= document.keys()
    group = version.partition("/")[0]
    return group == GROUP or (kind in KINDS and nearest(group, [GROUP]) is not None)


def kind_faults(document: Mapping[str, Any]) -> list[FieldError]:
    """What is wrong with apiVersion and kind."""
    faults = []
    for field, choices in (("apiVersion", [API_VERSION]), ("kind", list(KINDS))):
        given = document.get(field)
        if given is None:
            remedy = (
                f"write {field}: {choices[0]}" if len(choices) == 1 else f"write one of {', '.join(choices)}"
            )
            faults.append(FieldError(path=field, rule="is required", remedy=remedy, location=(field,)))
        elif given not in choices:
            faults.append(unknown_choice(path=field, location=(field,), word=given, choices=choices))
    return faults


def key_of(document: Mapping[str, Any]) -> ResourceKey | None:
    """What the document calls itself, even if the rest of it is wrong; None where that cannot be told."""
    kind, metadata = document.get("kind"), document.get("metadata")
    if not isinstance(kind, str) or kind not in KINDS or not isinstance(metadata, Mapping):
        return None
    name, namespace = metadata.get("name"), metadata.get("namespace")
    namespace = "default" if namespace is None else namespace
    if not isinstance(name, str) or not isinstance(namespace, str):
        return None
    return ResourceKey(kind, "" if kind in CLUSTER_WIDE else namespace, name)


def describe(document: Mapping[str, Any]) -> str:
    """A document of another kind in few words, for saying that it was passed over."""
    return f"kind {shown(document.get('kind'))} of {shown(document.get('apiVersion'))}"
