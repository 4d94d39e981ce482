"""From a source URI to files on this machine: what the replica does before it loads anything."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from plinth.domain.sources import Source, SourceScheme, parse_source, select_files
from plinth.engine.hub import describe, fetch_repository
from plinth.engine.seam import LocalModel, Progress, SourceError

_MAX_LISTED = 10_000


@dataclass(frozen=True, kw_only=True)
class ModelFetcher:
    """Finds one model, fetching it into the shared cache if it is not on this machine."""

    source: str
    revision: str | None
    credentials: str | None
    """`name/key`: the file `secrets_dir/name/key` holds the token."""
    secrets_dir: Path | None
    cache_dir: Path

    def __call__(self, progress: Progress) -> LocalModel:
        """The model's files. Blocks for as long as a download takes.

        Raises:
            SourceError: the source cannot be had, and what would help.
        """
        try:
            source = parse_source(self.source, self.revision)
            if source.scheme is SourceScheme.HF:
                token = read_token(self.credentials, self.secrets_dir)
                return fetch_repository(source, token=token, cache_dir=self.cache_dir, progress=progress)
            return _local(source)
        except ValueError as error:
            raise SourceError(f"{self.source}: {error}") from None


def read_token(credentials: str | None, secrets_dir: Path | None) -> str | None:
    """The token that `name/key` of the folder of secrets holds, read now and kept by nobody; None for none.

    Raises:
        SourceError: it cannot be read, or is empty.
    """
    if credentials is None:
        return None
    if secrets_dir is None:
        raise SourceError(f"model.credentials names {credentials}, and there is no folder of secrets")
    try:
        token = (secrets_dir / credentials).read_text().strip()
    except OSError as error:
        raise SourceError(
            f"model.credentials: secret {credentials} cannot be read: {error.strerror}"
        ) from None
    if not token:
        raise SourceError(f"model.credentials: secret {credentials} is empty")
    return token


def _local(source: Source) -> LocalModel:
    if source.scheme is SourceScheme.PACKAGE:
        return local_model(package_folder(source.origin), source.file)
    path = Path(source.origin)
    if path.is_file():
        return local_model(path.parent, path.name)
    if not path.is_dir():
        raise ValueError("there is no such file or folder on this machine")
    return local_model(path, None)


def package_folder(module: str) -> Path:
    """Where a package's data lies, found without running any of its code."""
    found = importlib.util.find_spec(module)
    if found is None:
        raise ValueError(f"no Python package {module} is installed here; install it, or use hf:// or file://")
    if not found.submodule_search_locations:
        raise ValueError(f"{module} is a single Python file and holds no data")
    return Path(next(iter(found.submodule_search_locations)))


def local_model(folder: Path, file: str | None) -> LocalModel:
    """The model in this folder.

    Raises:
        ValueError: it holds none, or several and none is named.
    """
    listed = [path for path in folder.rglob("*") if path.is_file()]
    if len(listed) > _MAX_LISTED:
        raise ValueError(f"{folder} holds over {_MAX_LISTED} files; name the model's own folder")
    files = select_files([path.relative_to(folder).as_posix() for path in listed], file)
    return describe(folder, files)
