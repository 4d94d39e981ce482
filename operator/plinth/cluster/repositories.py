"""Looking into a model's source without fetching it: which files there are, how large, and the head of one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.errors import HfHubHTTPError

from plinth.domain.sources import Source, SourceScheme


class SourceError(Exception):
    """Nothing to read at the source; the message says what was looked for and what would help."""


class Repository(Protocol):
    """A place with a model's files in it."""

    def sizes(self) -> Mapping[str, int]:
        """Every file's size in bytes, by its path inside the repository."""

    def open(self, name: str) -> BinaryIO:
        """One file, readable from its start without fetching all of it."""


class FolderRepository:
    """Files on this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def sizes(self) -> Mapping[str, int]:
        """Every regular file below the root."""
        if self._root.is_file():
            return {self._root.name: self._root.stat().st_size}
        return {
            path.relative_to(self._root).as_posix(): path.stat().st_size
            for path in self._root.rglob("*")
            if path.is_file()
        }

    def open(self, name: str) -> BinaryIO:
        """One file."""
        return (self._root if self._root.is_file() else self._root / name).open("rb")


class HubRepository:
    """A repository of the Hugging Face hub, or of a mirror named by HF_ENDPOINT."""

    def __init__(self, source: Source, token: str | None) -> None:
        self._source = source
        self._token = token

    def sizes(self) -> Mapping[str, int]:
        """As the hub lists them. Raises SourceError."""
        api = HfApi(token=self._token)
        try:
            info = api.model_info(self._source.origin, revision=self._source.revision, files_metadata=True)
        except (HfHubHTTPError, OSError) as error:
            raise SourceError(_hub_refusal(self._source, error)) from error
        return {each.rfilename: each.size or 0 for each in info.siblings or ()}

    def open(self, name: str) -> BinaryIO:
        """One file, fetched by ranges as it is read."""
        revision = f"@{self._source.revision.replace('/', '%2F')}" if self._source.revision else ""
        files = HfFileSystem(token=self._token, use_listings_cache=False)
        return cast("BinaryIO", files.open(f"{self._source.origin}{revision}/{name}", "rb"))


def open_repository(source: Source, *, credentials: str | None, secrets_dir: Path) -> Repository:
    """The repository behind a source; `credentials` is `name/key` of a Secret. Raises SourceError."""
    if source.scheme is SourceScheme.HF:
        return HubRepository(source, _token(credentials, secrets_dir))
    if source.scheme is SourceScheme.FILE:
        root = Path(source.origin)
        if not root.exists():
            raise SourceError("no such file or folder on this machine")
        return FolderRepository(root)
    spec = find_spec(source.origin)
    if spec is None or not spec.submodule_search_locations:
        raise SourceError(f"no Python package named {source.origin} is installed here")
    return FolderRepository(Path(spec.submodule_search_locations[0]))


def _token(credentials: str | None, secrets_dir: Path) -> str | None:
    if credentials is None:
        return None
    try:
        return (secrets_dir / credentials).read_text().strip()
    except OSError as error:
        raise SourceError(
            f"spec.model.credentials: cannot read the Secret's file secrets/{credentials}"
        ) from error


def _hub_refusal(source: Source, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    at = f" at revision {source.revision}" if source.revision else ""
    if status in {401, 403}:
        return (
            f"the hub does not show {source.origin}{at} to this caller; "
            "if it is gated, set spec.model.credentials to a token that may read it"
        )
    if status == 404:  # noqa: PLR2004 - HTTP's not found
        return f"the hub has no {source.origin}{at}"
    return f"the hub did not answer for {source.origin}{at}: {type(error).__name__}"
