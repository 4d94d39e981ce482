"""The users' resources as the API server has them: fed change by change, read whole once a pass.

An object that the API server took and Plinth refuses, by a rule that a CRD of another version did not have, is told of
as such while its last good version goes on being served. Every replica of the operator keeps a store; only what the
leader's StatusWriter sends changes anything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any, Generic, TypeVar, cast

from pydantic import ValidationError

from plinth.api.v1alpha1 import (
    AnyResource,
    GPUPool,
    GPUPoolStatus,
    InvalidResourceError,
    ModelDeployment,
    ModelDeploymentStatus,
    ObjectMeta,
    QuotaPolicy,
    QuotaPolicyStatus,
    ResourceKey,
    parse_resource,
)

AnyStatus = GPUPoolStatus | ModelDeploymentStatus | QuotaPolicyStatus
R = TypeVar("R", bound=AnyResource)

STATUS_TYPES: dict[str, type[AnyStatus]] = {
    "GPUPool": GPUPoolStatus,
    "ModelDeployment": ModelDeploymentStatus,
    "QuotaPolicy": QuotaPolicyStatus,
}
UNREAD_METADATA = frozenset({"managedFields", "selfLink"})
"""Most of an object's size, and of no use here."""

log = logging.getLogger("plinth.store")


@dataclass(frozen=True, kw_only=True)
class Stored(Generic[R]):
    """A resource in its last good version, with the status that the API server has."""

    resource: R
    uid: str
    first_seen: float
    """Unix seconds: when it was created."""
    invalid_edit: str = ""
    """What is wrong with the newest version; empty when this is it."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """An object that never had a good version here."""

    key: ResourceKey
    metadata: ObjectMeta
    status: AnyStatus
    message: str


@dataclass(frozen=True, kw_only=True)
class StoreState:
    """All that users asked for; the same object as before while nothing changed."""

    pools: tuple[Stored[GPUPool], ...] = ()
    """Those that are being deleted too."""
    models: tuple[Stored[ModelDeployment], ...] = ()
    policies: tuple[Stored[QuotaPolicy], ...] = ()
    """Those that are being deleted too: their limits hold until they are gone."""
    refused: tuple[Refused, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ObservedStatus:
    """The status of an object as the API server has it, for comparing with what it should be."""

    uid: str
    version: int
    """Its resource version: counts up with every change of anything."""
    body: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Entry:
    key: ResourceKey
    metadata: ObjectMeta
    observed: ObservedStatus
    status: AnyStatus
    first_seen: float
    resource: AnyResource | None
    """The last good version, if there was one."""
    invalid_edit: str = ""
    asked: Mapping[str, Any] = field(repr=False)
    """What the object says besides its status and version: parsed again only when this changes."""

    @property
    def is_leaving(self) -> bool:
        return bool(self.metadata.deletion_timestamp)

    @cached_property
    def stored(self) -> Stored[AnyResource] | None:
        """The same object for as long as nothing changes, for others to know it by."""
        if self.resource is None:
            return None
        return Stored(
            resource=self.resource,
            uid=self.observed.uid,
            first_seen=self.first_seen,
            invalid_edit=self.invalid_edit,
        )


class KubernetesStore:
    """The objects of our kinds, by name. Calls must come from one thread."""

    def __init__(self) -> None:
        self._entries: dict[ResourceKey, _Entry] = {}
        self._state: StoreState | None = None
        self.on_status: Callable[[ResourceKey], None] | None = None
        """Told whose status the API server has anew, so that what others wrote is repaired; set by the leader."""

    def put(self, item: Mapping[str, Any]) -> bool:
        """Take in an object as the API server gave it; whether a plan may depend on what changed."""
        key = _key_of(item)
        before = self._entries.get(key)
        uid, version = item["metadata"]["uid"], int(item["metadata"]["resourceVersion"])
        if before is not None and before.observed.uid != uid:
            before = None
        if before is not None and version <= before.observed.version:
            return False
        observed = ObservedStatus(uid=uid, version=version, body=item.get("status") or {})
        asked = _asked(item)
        if before is not None and before.asked == asked:
            self._keep(_with_status(before, observed))
            return False
        self._keep(_read(key, item, asked, observed, before))
        return True

    def take_answer(self, item: Mapping[str, Any]) -> None:
        """Take in the answer to a write of ours, unless the object has gone meanwhile."""
        entry = self._entries.get(_key_of(item))
        if entry is not None and entry.observed.uid == item["metadata"]["uid"]:
            self.put(item)

    def remove(self, key: ResourceKey, uid: str) -> bool:
        """Forget an object, not another that took its name; whether there was one."""
        entry = self._entries.get(key)
        if entry is None or entry.observed.uid != uid:
            return False
        del self._entries[key]
        self._state = None
        return True

    def read(self) -> StoreState:
        """All resources, by name."""
        if self._state is None:
            entries = [self._entries[key] for key in sorted(self._entries)]
            self._state = StoreState(
                pools=_stored(entries, GPUPool),
                # Nothing is to be served any more by a model that somebody else's finalizer still holds.
                models=_stored([each for each in entries if not each.is_leaving], ModelDeployment),
                policies=_stored(entries, QuotaPolicy),
                refused=tuple(_refused(each) for each in entries if each.resource is None),
            )
        return self._state

    def known(self) -> dict[ResourceKey, str]:
        """Every object's uid."""
        return {key: entry.observed.uid for key, entry in self._entries.items()}

    def observed(self, key: ResourceKey) -> ObservedStatus | None:
        """The status that the API server has; None where there is no such object."""
        entry = self._entries.get(key)
        return entry.observed if entry else None

    def _keep(self, entry: _Entry) -> None:
        self._entries[entry.key] = entry
        self._state = None
        if self.on_status is not None:
            self.on_status(entry.key)


def key_of(kind: str, metadata: Mapping[str, Any]) -> ResourceKey:
    """An object's key by its metadata."""
    return ResourceKey(kind, metadata.get("namespace") or "", metadata["name"])


def _key_of(item: Mapping[str, Any]) -> ResourceKey:
    return key_of(item["kind"], item["metadata"])


def _asked(item: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {name: value for name, value in item["metadata"].items() if name not in UNREAD_METADATA}
    del metadata["resourceVersion"]
    return {**{name: value for name, value in item.items() if name != "status"}, "metadata": metadata}


def _read(
    key: ResourceKey,
    item: Mapping[str, Any],
    asked: Mapping[str, Any],
    observed: ObservedStatus,
    before: _Entry | None,
) -> _Entry:
    metadata = _read_metadata(asked["metadata"])
    status = _read_status(key, observed.body)
    invalid_edit = ""
    resource: AnyResource | None
    try:
        resource = _copy(parse_resource(asked), status=status)
    except InvalidResourceError as error:
        invalid_edit = "; ".join(str(fault) for fault in error.errors)
        log.warning("%s is refused: %s", key, invalid_edit)
        # The last good spec, under the newest metadata: it is the newest generation that is judged as invalid.
        good = before.resource if before else None
        resource = _copy(good, metadata=metadata, status=status) if good else None
    created = datetime.fromisoformat(item["metadata"]["creationTimestamp"]).timestamp()
    return _Entry(
        key=key,
        metadata=metadata,
        observed=observed,
        status=status,
        first_seen=created,
        resource=resource,
        invalid_edit=invalid_edit,
        asked=asked,
    )


def _read_metadata(metadata: Mapping[str, Any]) -> ObjectMeta:
    try:
        return ObjectMeta.model_validate(metadata)
    except ValidationError:  # a name that the CRD would have refused; the resource is refused by it too
        return ObjectMeta.model_construct(
            name=metadata["name"],
            namespace=metadata.get("namespace", ""),
            generation=metadata.get("generation", 0),
            deletion_timestamp=metadata.get("deletionTimestamp", ""),
        )


def _with_status(entry: _Entry, observed: ObservedStatus) -> _Entry:
    if observed.body == entry.observed.body:
        return replace(entry, observed=observed)
    status = _read_status(entry.key, observed.body)
    resource = _copy(entry.resource, status=status) if entry.resource else None
    return replace(entry, observed=observed, status=status, resource=resource)


def _read_status(key: ResourceKey, body: Mapping[str, Any]) -> AnyStatus:
    """The status as Plinth wrote it; what others made of it, where that cannot be read, counts as none."""
    model = STATUS_TYPES[key.kind]
    try:
        return model.model_validate(body)
    except ValidationError as error:
        log.warning("the status of %s was not written by Plinth and is made anew: %s", key, error)
        return model()


def _copy(resource: R, **changes: object) -> R:
    return cast("R", resource.model_copy(update=changes))


def _stored(entries: list[_Entry], kind: type[R]) -> tuple[Stored[R], ...]:
    return tuple(cast("Stored[R]", entry.stored) for entry in entries if isinstance(entry.resource, kind))


def _refused(entry: _Entry) -> Refused:
    return Refused(key=entry.key, metadata=entry.metadata, status=entry.status, message=entry.invalid_edit)
