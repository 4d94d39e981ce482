"""Looking into a model's source without fetching it: which files there are, how large, and the head of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, cast

import httpx2
from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import (  # type: ignore[attr-defined] # documented, though not in __all__
    build_hf_headers,
    hf_raise_for_status,
)

from plinth.domain.sources import Source, SourceScheme
from plinth.engine.seam import SourceError
from plinth.engine.sources import package_folder, read_token


class Repository(Protocol):
    """A place with a model's files in it."""

    def sizes(self) -> Mapping[str, int]:
        """Every file's size in bytes, by its path inside the repository."""

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """One file, readable from its start on, without fetching all of it."""


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

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """One file."""
        return (self._root if self._root.is_file() else self._root / name).open("rb")


class HubRepository:
    """A repository of the Hugging Face hub, or of a mirror named by HF_ENDPOINT."""

    def __init__(self, source: Source, token: str | None) -> None:
        self._source = source
        # `False` and never None: then no token that lies around on the machine is sent.
        self._token: str | Literal[False] = token or False
        self._commit: str | None = source.revision

    def sizes(self) -> Mapping[str, int]:
        """As the hub lists them. Raises SourceError."""
        with self._refusals():
            info = HfApi(token=self._token).model_info(
                self._source.origin, revision=self._source.revision, files_metadata=True
            )
        self._commit = info.sha or self._commit
        return {each.rfilename: each.size or 0 for each in info.siblings or ()}

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """One file, fetched only as far as it is read. Raises SourceError."""
        url = hf_hub_url(self._source.origin, name, revision=self._commit)
        headers = build_hf_headers(token=self._token)
        with (
            self._refusals(),
            get_session().stream("GET", url, headers=headers, follow_redirects=True) as response,
        ):
            hf_raise_for_status(response)
            yield cast("BinaryIO", ForwardStream(response.iter_bytes()))

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except (HfHubHTTPError, httpx2.TransportError, OSError) as error:
            raise SourceError(_hub_refusal(self._source, error)) from error


class ForwardStream:
    """Bytes that come one piece after the other, read as a file that is never sought backwards."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._buffer = b""

    def read(self, size: int = -1) -> bytes:
        """So many bytes, fewer only at the end; all that is left without a size."""
        while size < 0 or len(self._buffer) < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._buffer += piece
        end = len(self._buffer) if size < 0 else size
        taken, self._buffer = self._buffer[:end], self._buffer[end:]
        return taken

    def seek(self, offset: int, whence: int) -> None:
        """Skip forward from where it is (`whence` 1), keeping nothing."""
        if whence != 1 or offset < 0:
            raise ValueError("only reading on is possible")
        while offset > len(self._buffer):
            offset -= len(self._buffer)
            self._buffer = next(self._pieces, b"")
            if not self._buffer:
                return
        self._buffer = self._buffer[offset:]


def open_repository(source: Source, *, credentials: str | None, secrets_dir: Path) -> Repository:
    """The repository behind a source; `credentials` is `name/key` of a Secret. Raises SourceError."""
    if source.scheme is SourceScheme.HF:
        return HubRepository(source, read_token(credentials, secrets_dir))
    try:
        root = Path(source.origin) if source.scheme is SourceScheme.FILE else package_folder(source.origin)
    except ValueError as error:
        raise SourceError(str(error)) from None
    if not root.exists():
        raise SourceError("no such file or folder on this machine")
    return FolderRepository(root)


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
