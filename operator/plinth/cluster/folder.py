"""The watched folder as a resource store: what the Kubernetes API is in a cluster.

Keeps the last good version of every resource while its file is edited, across restarts too: a broken edit
never takes a served model away, only removing its document does. Counts generations and remembers when each
resource was first seen, both in SQLite beside the statuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar, cast

from pydantic import ValidationError

from plinth.api.v1alpha1 import (
    KINDS,
    AnyResource,
    GPUPool,
    ModelDeployment,
    QuotaPolicy,
    ResourceKey,
)
from plinth.cluster.folder_files import (
    FileCache,
    FolderContents,
    FolderIssue,
    Found,
    load_folder,
)
from plinth.cluster.folder_watch import RECHECK_SECONDS, watch
from plinth.cluster.status_db import AnyStatus, ResourceRow, StatusDB

__all__ = [
    "FolderContents",
    "FolderIssue",
    "FolderState",
    "FolderStore",
    "Stored",
    "load_folder",
    "watch",
]

REMOVAL_GRACE_SECONDS = RECHECK_SECONDS * 2 / 3
"""How long a document must have been gone: some editors move a file away for a moment to save it. Shorter than
the time after which `watch` gives its second notice, so that this notice finds it over."""

R = TypeVar("R", bound=AnyResource)


@dataclass(frozen=True, kw_only=True)
class Stored(Generic[R]):
    """A resource in its last good version."""

    resource: R
    """With its generation, and the status last written."""
    first_seen: float
    """Unix seconds."""
    file: str
    invalid_edit: str = ""
    """What is wrong with a newer version, by file and line; empty when this is the newest."""


@dataclass(frozen=True, kw_only=True)
class FolderState:
    """All that users asked for, as of one reading."""

    pools: tuple[Stored[GPUPool], ...]
    models: tuple[Stored[ModelDeployment], ...]
    policies: tuple[Stored[QuotaPolicy], ...]
    errors: tuple[FolderIssue, ...]
    """Everything wrong in the folder, also with resources that never had a good version."""
    warnings: tuple[FolderIssue, ...]
    recheck_at: float | None = None
    """When a removal is due that is being waited out; None without one."""


@dataclass(frozen=True)
class _Kept:
    """The last good version, its status left at its default."""

    resource: AnyResource
    first_seen: float
    file: str
    invalid_edit: str = ""
    missing_since: float | None = None
    found: AnyResource | None = None
    """The resource as the file gave it, to know an unchanged reading by."""

    @property
    def row(self) -> ResourceRow:
        return ResourceRow(
            key=self.resource.key,
            file=self.file,
            manifest=self.resource.model_dump_json(by_alias=True, exclude={"status"}, exclude_none=True),
            generation=self.resource.metadata.generation,
            first_seen=self.first_seen,
        )


class FolderStore:
    """The resources of one folder. Calls must not overlap; reading blocks for as long as the disk does."""

    def __init__(
        self, folder: Path, database: StatusDB, *, removal_grace_seconds: float = REMOVAL_GRACE_SECONDS
    ) -> None:
        self._folder = folder
        self._database = database
        self._grace = removal_grace_seconds
        self._cache = FileCache()
        self._kept = {kept.resource.key: kept for row in database.read_resources() if (kept := _restore(row))}
        self._statuses: dict[ResourceKey, AnyStatus] = database.read_statuses()

    def read(self, now: float) -> FolderState:
        """All resources as the folder has them now (Unix seconds), each in its last good version.

        Raises sqlite3.Error when what changed cannot be kept.
        """
        contents = load_folder(self._folder, self._cache)
        if contents.is_readable:
            self._keep(self._follow(contents, now))
        waiting = [kept.missing_since for kept in self._kept.values() if kept.missing_since is not None]
        return FolderState(
            pools=self._stored(GPUPool),
            models=self._stored(ModelDeployment),
            policies=self._stored(QuotaPolicy),
            errors=contents.errors,
            warnings=contents.warnings,
            recheck_at=min(waiting) + self._grace if waiting else None,
        )

    def write(self, statuses: Mapping[ResourceKey, AnyStatus]) -> int:
        """Make these the statuses of all resources; returns how many changed. Raises sqlite3.Error."""
        wanted = {key: status for key, status in statuses.items() if key in self._kept}
        changed = self._database.write_statuses(wanted)
        self._statuses = wanted
        return changed

    def _follow(self, contents: FolderContents, now: float) -> dict[ResourceKey, _Kept]:
        """What is kept from now on: the folder's valid resources, and what a fault or the grace holds."""
        following = {item.resource.key: self._accept(item, now) for item in contents.found}
        refused = _edits_by_key(contents)
        unclear = {file.file: _text(file.errors) for file in contents.files if not file.is_whole}
        for key, kept in self._kept.items():
            if key in following:
                continue
            edit = refused.get(key) or unclear.get(kept.file)
            if edit:
                following[key] = replace(kept, invalid_edit=edit, missing_since=None)
                continue
            since = now if kept.missing_since is None else kept.missing_since
            if now - since < self._grace:
                following[key] = replace(kept, invalid_edit="", missing_since=since)
        return following

    def _accept(self, item: Found, now: float) -> _Kept:
        """The resource as found, numbered: the generation moves when the spec does."""
        before = self._kept.get(item.resource.key)
        if before is None:
            return _Kept(_numbered(item.resource, 1), now, item.file, found=item.resource)
        is_same = before.found is item.resource and before.file == item.file
        if is_same and not before.invalid_edit and before.missing_since is None:
            return before
        generation = before.resource.metadata.generation
        if item.resource.spec != before.resource.spec:
            generation += 1
        return _Kept(_numbered(item.resource, generation), before.first_seen, item.file, found=item.resource)

    def _keep(self, following: dict[ResourceKey, _Kept]) -> None:
        """Remember on disk what differs from before, then in memory."""
        touched = [kept for key, kept in following.items() if kept is not self._kept.get(key)]
        changed = [kept.row for kept in touched if kept.row != self._row(kept.resource.key)]
        removed = self._kept.keys() - following.keys()
        if changed or removed:
            self._database.apply_resources(changed, removed)
        self._kept = following
        for key in removed:
            self._statuses.pop(key, None)

    def _row(self, key: ResourceKey) -> ResourceRow | None:
        kept = self._kept.get(key)
        return kept.row if kept else None

    def _stored(self, kind: type[R]) -> tuple[Stored[R], ...]:
        return tuple(
            Stored(
                resource=self._with_status(kept.resource),
                first_seen=kept.first_seen,
                file=kept.file,
                invalid_edit=kept.invalid_edit,
            )
            for key, kept in sorted(self._kept.items())
            if isinstance(kept.resource, kind)
        )

    def _with_status(self, resource: R) -> R:
        status = self._statuses.get(resource.key)
        return resource if status is None else _copy(resource, status=status)


def _numbered(resource: R, generation: int) -> R:
    return _copy(resource, metadata=resource.metadata.model_copy(update={"generation": generation}))


def _copy(resource: R, **changes: object) -> R:
    return cast("R", resource.model_copy(update=changes))


def _restore(row: ResourceRow) -> _Kept | None:
    """The version kept by an earlier process; None where this Plinth no longer takes it."""
    try:
        resource = KINDS[row.key.kind].model_validate_json(row.manifest)
    except (ValidationError, KeyError):
        return None
    return _Kept(_numbered(resource, row.generation), row.first_seen, row.file)


def _edits_by_key(contents: FolderContents) -> dict[ResourceKey, str]:
    keys = {issue.key for issue in contents.errors if issue.key is not None}
    return {key: _text(tuple(issue for issue in contents.errors if issue.key == key)) for key in keys}


def _text(issues: tuple[FolderIssue, ...]) -> str:
    return "; ".join(str(issue) for issue in issues)
