"""Reads a folder of YAML once: the resources in it, and all that is wrong with it by file, line and remedy.

The first half of the folder store; what is kept between two readings is `folder`'s part.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from plinth.api.v1alpha1 import (
    AnyResource,
    FieldError,
    GPUPool,
    InvalidResourceError,
    ModelDeployment,
    QuotaPolicy,
    ResourceKey,
    parse_resource,
)
from plinth.api.v1alpha1.documents import BrokenYAMLError, Document, read_documents
from plinth.api.v1alpha1.resources import describe, is_ours, key_of
from plinth.cluster.folder_watch import is_passed_over

SUFFIXES = (".yaml", ".yml")
MAX_FILE_BYTES = 256 * 1024
MAX_FILES = 1_000
_SETTLED_NANOSECONDS = 100_000_000
"""A file changed this short a time ago may change again within the same tick of its clock: read it again."""


@dataclass(frozen=True, kw_only=True)
class FolderIssue:
    """One fault in the folder. Printed: `models.yaml:12: spec.scaling.maxReplicas: must be at least 1, …`."""

    file: str
    """Relative to the folder; the folder itself is `.`."""
    line: int
    """Counted from 1; 0 where the file as a whole is meant."""
    error: FieldError
    key: ResourceKey | None = None
    """The resource that is at fault, where that can be told."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.error}"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A valid resource and where it stands."""

    resource: AnyResource
    file: str
    line: int


@dataclass(frozen=True, kw_only=True)
class FileContents:
    """What one file holds."""

    file: str
    found: tuple[Found, ...] = ()
    errors: tuple[FolderIssue, ...] = ()
    warnings: tuple[FolderIssue, ...] = ()
    is_whole: bool = True
    """False where some document does not say which resource it is: any last seen here may be meant."""


@dataclass(frozen=True, kw_only=True)
class FolderContents:
    """What a folder holds."""

    files: tuple[FileContents, ...]
    errors: tuple[FolderIssue, ...]
    """By file and line."""
    warnings: tuple[FolderIssue, ...]
    found: tuple[Found, ...]
    """Valid, and named once."""
    is_readable: bool = True
    """False where the folder itself could not be read, so that nothing is known of it."""

    @property
    def pools(self) -> tuple[GPUPool, ...]:
        """The valid GPUPools, by name."""
        return tuple(item.resource for item in self.found if isinstance(item.resource, GPUPool))

    @property
    def models(self) -> tuple[ModelDeployment, ...]:
        """The valid ModelDeployments, by namespace and name."""
        return tuple(item.resource for item in self.found if isinstance(item.resource, ModelDeployment))

    @property
    def policies(self) -> tuple[QuotaPolicy, ...]:
        """The valid QuotaPolicies, by namespace and name."""
        return tuple(item.resource for item in self.found if isinstance(item.resource, QuotaPolicy))


@dataclass(frozen=True)
class _Cached:
    signature: tuple[int, ...]
    contents: FileContents


class FileCache:
    """Spares reading again what has not changed; valid within one process."""

    def __init__(self) -> None:
        self._files: dict[str, _Cached] = {}

    def read(self, path: Path, file: str) -> FileContents:
        """The file's contents, from the last reading if the file is as it was then."""
        try:
            status = path.stat()
        except OSError as error:
            return _unreadable(file, error)
        signature = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        cached = self._files.get(file)
        if cached is not None and cached.signature == signature:
            return cached.contents
        settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_NANOSECONDS
        contents = _read_file(path, file, status)
        self._files.pop(file, None)
        if settled:
            self._files[file] = _Cached(signature, contents)
        return contents


def load_folder(path: Path, cache: FileCache | None = None) -> FolderContents:
    """Everything a folder holds; never raises for what is in it.

    Hidden entries and folders named `secrets` are passed over.
    """
    cache = cache or FileCache()
    root = path.expanduser()
    try:
        names = _list_files(root)
    except OSError as error:
        where = error.filename or path
        return _nothing_known(
            f"must be a folder that can be read: {error.strerror or error}", f"look at {where}"
        )
    if len(names) > MAX_FILES:
        return _nothing_known(
            f"must hold at most {MAX_FILES} YAML files", "put several resources into one file"
        )
    files = [cache.read(root / name, name) for name in names]
    found, collisions = without_repeated(item for contents in files for item in contents.found)
    errors = [*collisions, *(issue for contents in files for issue in contents.errors)]
    return FolderContents(
        files=tuple(files),
        errors=tuple(sorted(errors, key=lambda issue: (issue.file, issue.line, issue.error.path))),
        warnings=tuple(issue for contents in files for issue in contents.warnings),
        found=tuple(sorted(found, key=lambda item: item.resource.key)),
    )


def _whole(rule: str, remedy: str) -> FieldError:
    return FieldError(path="", rule=rule, remedy=remedy)


def _nothing_known(rule: str, remedy: str) -> FolderContents:
    issue = FolderIssue(file=".", line=0, error=_whole(rule, remedy))
    return FolderContents(files=(), errors=(issue,), warnings=(), found=(), is_readable=False)


def _list_files(root: Path) -> list[str]:
    """The YAML files below the root, sorted; a few more than allowed at most.

    Raises OSError when a folder cannot be listed: what is in it is not known, which is not the same as nothing.
    """
    names: list[str] = []
    seen: set[str] = set()
    os.scandir(root).close()
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_unless_gone):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back up
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not is_passed_over(name))
        yaml_files = (name for name in files if name.endswith(SUFFIXES) and not name.startswith("."))
        names += [os.path.relpath(Path(folder, name), root) for name in yaml_files]
        if len(names) > MAX_FILES:
            break
    return sorted(names)


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _unreadable(file: str, error: OSError) -> FileContents:
    rule = f"must be a file that can be read: {error.strerror or error}"
    issue = FolderIssue(file=file, line=0, error=_whole(rule, "look at its owner and mode"))
    return FileContents(file=file, errors=(issue,), is_whole=False)


def _read_file(path: Path, file: str, status: os.stat_result) -> FileContents:
    if not stat.S_ISREG(status.st_mode):
        issue = FolderIssue(file=file, line=0, error=_whole("must be a regular file", "rename or remove it"))
        return FileContents(file=file, errors=(issue,), is_whole=False)
    try:
        documents = read_documents(_bounded(path))
    except OSError as error:
        return _unreadable(file, error)
    except BrokenYAMLError as error:
        issue = FolderIssue(file=file, line=error.line, error=_whole(error.rule, error.remedy))
        return FileContents(file=file, errors=(issue,), is_whole=False)
    return _join(file, [_read_document(file, document) for document in documents])


def _bounded(path: Path) -> bytes:
    with path.open("rb") as opened:
        data = opened.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        rule = f"must be at most {MAX_FILE_BYTES // 1024} KiB"
        raise BrokenYAMLError(line=0, rule=rule, remedy="split it into several files")
    return data


def _join(file: str, parts: Sequence[FileContents]) -> FileContents:
    return FileContents(
        file=file,
        found=tuple(item for part in parts for item in part.found),
        errors=tuple(issue for part in parts for issue in part.errors),
        warnings=tuple(issue for part in parts for issue in part.warnings),
        is_whole=all(part.is_whole for part in parts),
    )


def _read_document(file: str, document: Document) -> FileContents:
    value = document.value
    if not isinstance(value, dict):
        error = _whole("must be a resource", "begin it with apiVersion, kind, metadata and spec")
        return FileContents(file=file, errors=(FolderIssue(file=file, line=document.line, error=error),))
    if not is_ours(value):
        error = _whole(f"{describe(value)} is not Plinth's", "passed over")
        return FileContents(file=file, warnings=(FolderIssue(file=file, line=document.line, error=error),))
    key = key_of(value)
    try:
        resource = parse_resource(value)
        faults: list[FieldError] = []
    except InvalidResourceError as invalid:
        faults = list(invalid.errors)
    faults += document.repeated
    if not faults:
        return FileContents(file=file, found=(Found(resource=resource, file=file, line=document.line),))
    issues = (
        FolderIssue(file=file, line=document.line_of(fault.location), error=fault, key=key)
        for fault in faults
    )
    is_named = key is not None and not any(fault.path.startswith("metadata.name") for fault in faults)
    return FileContents(file=file, errors=tuple(issues), is_whole=is_named)


def without_repeated(items: Iterable[Found]) -> tuple[list[Found], list[FolderIssue]]:
    """Resources that are named once, and an issue for each place of those that are not: none of them counts."""
    by_key: dict[ResourceKey, list[Found]] = {}
    for item in items:
        by_key.setdefault(item.resource.key, []).append(item)
    once = [places[0] for places in by_key.values() if len(places) == 1]
    issues = [
        FolderIssue(file=here.file, line=here.line, key=key, error=_repeated(key, here, places))
        for key, places in by_key.items()
        if len(places) > 1
        for here in places
    ]
    return once, issues


def _repeated(key: ResourceKey, here: Found, places: Sequence[Found]) -> FieldError:
    others = ", ".join(f"{other.file}:{other.line}" for other in places if other is not here)
    remedy = "remove one of them, or give it another name"
    return FieldError(
        path="metadata.name", rule=f"must be the only {key}; another is at {others}", remedy=remedy
    )
