"""The files and folders that `plinth plan` is given, each as `plinth up` would read it, and all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from plinth.api.v1alpha1 import GPUPool, ModelDeployment, ResourceKey
from plinth.cluster.folder_files import FileCache, FolderIssue, Found, load_folder, without_repeated

SECRETS = "secrets"


@dataclass(frozen=True, kw_only=True)
class PlanFiles:
    """What the files ask for."""

    pools: tuple[GPUPool, ...]
    models: tuple[ModelDeployment, ...]
    errors: tuple[FolderIssue, ...]
    secrets: Mapping[ResourceKey, Path]
    """The folder that each resource's secrets lie in: `secrets` beside its file, or at the top of its folder."""


def load_plan_files(paths: Iterable[Path]) -> PlanFiles:
    """All resources of files and folders; never raises for what is in them. No two may have the same name."""
    found: list[Found] = []
    errors: list[FolderIssue] = []
    secrets: dict[ResourceKey, Path] = {}
    for path in paths:
        here, wrong = _load(path)
        found += here
        errors += wrong
        secrets |= dict.fromkeys(
            (each.resource.key for each in here), (path if path.is_dir() else path.parent) / SECRETS
        )
    once, repeated = without_repeated(found)
    resources = [each.resource for each in sorted(once, key=lambda each: each.resource.key)]
    return PlanFiles(
        pools=tuple(each for each in resources if isinstance(each, GPUPool)),
        models=tuple(each for each in resources if isinstance(each, ModelDeployment)),
        errors=(*errors, *repeated),
        secrets=secrets,
    )


def _load(path: Path) -> tuple[list[Found], list[FolderIssue]]:
    """What a file or a folder holds, with paths as they were given."""
    if not path.is_dir():
        alone = FileCache().read(path, str(path))
        return list(alone.found), list(alone.errors)
    folder = load_folder(path)
    found = [replace(each, file=str(path / each.file)) for each in folder.found]
    return found, [replace(each, file=str(path / each.file)) for each in folder.errors]
