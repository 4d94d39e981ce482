"""Sources that lie on this machine: where they may be looked for, and which files are there.

The replica opens what is found here, and the planner's reader looks into the same, so both keep the same bounds. In a
cluster many tenants' models share one pod's files: what no source may reach is kept out here, where a symbolic link
has been followed, and not where its text is read.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from plinth.domain.sources import Source, SourceScheme

MAX_LISTED = 10_000


@dataclass(frozen=True, kw_only=True)
class SourcePlaces:
    """Which folders of this machine models may come from."""

    shared: Path | None = None
    """`file://` must lie below it; None: it may name any file, as on a machine of one's own."""
    volumes: Path | None = None
    """Holds the volume claims by name; None: there are none here."""


@dataclass(frozen=True, kw_only=True)
class LocalFiles:
    """A model's folder, as its source names it."""

    folder: Path
    file: str | None
    """The one file of the folder that is meant; None: all of the folder."""
    bound: Path | None
    """No symbolic link may lead out of it; None: any may."""

    def sizes(self) -> Mapping[str, int]:
        """Every regular file's size in bytes, by its path below the folder; beside a named file, its neighbours.

        Raises:
            ValueError: there are too many, or one is not for this model to read.
        """
        found: dict[str, int] = {}
        for path in self._paths():
            if path.is_file():
                found[path.relative_to(self.folder).as_posix()] = path.stat().st_size
            if len(found) > MAX_LISTED:
                raise ValueError(f"its folder holds over {MAX_LISTED} files; name the model's own folder")
        return found

    def _paths(self) -> Iterator[Path]:
        if not self.folder.is_dir():
            return
        if self.file is not None:
            # Its neighbours may be parts of the same model. One that leads elsewhere is another model's matter.
            yield from (path for path in self.folder.iterdir() if self._is_within(path))
            return
        for path in self.folder.rglob("*"):
            # An engine that is given a folder opens what it likes of it, so all of it must be the model's own.
            if not self._is_within(path):
                name = path.relative_to(self.folder)
                raise ValueError(
                    f"{name} is a link that leads out of {self.bound}; put the file itself there"
                )
            yield path

    def _is_within(self, path: Path) -> bool:
        return self.bound is None or _real(path).is_relative_to(_real(self.bound))


def find_local(source: Source, places: SourcePlaces) -> LocalFiles:
    """Where the source's files lie on this machine.

    Raises:
        ValueError: there is no such file, package or volume here, or it is out of bounds; and what would work.
    """
    if source.scheme is SourceScheme.PACKAGE:
        folder = package_folder(source.origin) / (source.file or "")
        # Packages come with the image, which whoever runs the pool has chosen: their links may lead anywhere.
        return LocalFiles(
            folder=folder.parent if source.file else folder,
            file=folder.name if source.file else None,
            bound=None,
        )
    if source.scheme is SourceScheme.VOLUME:
        return _inside(*_on_volume(source, places))
    return _inside(Path(source.origin), places.shared)


def _on_volume(source: Source, places: SourcePlaces) -> tuple[Path, Path]:
    """The path of the source, and the claim's folder."""
    if places.volumes is None and places.shared is None:
        raise ValueError("there are no volume claims outside a cluster; write file:///path or hf://org/name")
    claim = places.volumes / source.origin if places.volumes else None
    if claim is None or not claim.is_dir():
        raise ValueError(
            f"the volume claim {source.origin} is not mounted here; list it in spec.volumes of a GPUPool whose "
            "spec.namespace is the model's"
        )
    return claim / source.path, claim


def _inside(path: Path, bound: Path | None) -> LocalFiles:
    if bound is not None and not path.is_relative_to(bound):
        raise ValueError(
            f"it must lie below {bound}: in a cluster no other file of the pod is within reach; have the pool's "
            "template mount it there, or use pvc://claim/path"
        )
    if bound is not None and not _real(path).is_relative_to(_real(bound)):
        raise ValueError(f"it is a link that leads out of {bound}; put the model itself there")
    if path.is_file():
        return LocalFiles(folder=path.parent, file=path.name, bound=bound)
    if not path.is_dir():
        raise ValueError("there is no such file or folder on this machine")
    return LocalFiles(folder=path, file=None, bound=bound)


def _real(path: Path) -> Path:
    # Not Path.resolve: a loop of links is an error there, and here a path like any other that leads nowhere.
    return Path(os.path.realpath(path))


def package_folder(module: str) -> Path:
    """Where a package's data lies, found without running any of its code.

    Raises:
        ValueError: it is not an installed package.
    """
    found = importlib.util.find_spec(module)
    if found is None:
        raise ValueError(f"no Python package {module} is installed here; install it, or use hf:// or file://")
    if not found.submodule_search_locations:
        raise ValueError(f"{module} is a single Python file and holds no data")
    if found.origin is None:
        # Any folder that happens to lie on Python's path would do, such as one below the working directory.
        raise ValueError(f"{module} is a folder without __init__.py, not an installed package; use file://")
    return Path(next(iter(found.submodule_search_locations)))
