"""Looking into a model's source without fetching it: which files there are, how large, and the head of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, Literal, Protocol, cast

from httpx2 import Response
from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.utils import (  # type: ignore[attr-defined] # documented, though not in __all__
    build_hf_headers,
    hf_raise_for_status,
)
from pydantic import SecretStr

from plinth.domain.sources import Source
from plinth.engine.hub_refusals import REFUSALS, explain_refusal
from plinth.engine.local_sources import LocalFiles
from plinth.engine.seam import SourceError

ANSWER_SECONDS = 30.0
PARTIAL_CONTENT = 206
AS_IT_IS = {"Accept-Encoding": "identity"}
"""A piece of what was compressed on the way is of no use."""


class Repository(Protocol):
    """A place with a model's files in it."""

    def sizes(self) -> Mapping[str, int]:
        """Every file's size in bytes, by its path inside the repository."""

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """One file, readable from its start on, without fetching all of it."""

    def read(self, name: str, start: int, size: int) -> bytes:
        """So many bytes of a file from `start` on, fewer only at its end."""


class FolderRepository:
    """Files on this machine."""

    def __init__(self, files: LocalFiles) -> None:
        self._files = files

    def __str__(self) -> str:
        return str(self._files.folder)

    def sizes(self) -> Mapping[str, int]:
        """As the replica will find them. Raises ValueError."""
        return self._files.sizes()

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """One file."""
        return (self._files.folder / name).open("rb")

    def read(self, name: str, start: int, size: int) -> bytes:
        """A piece of a file."""
        with self.open(name) as stream:
            stream.seek(start)
            return stream.read(size)


class HubRepository:
    """A repository of the Hugging Face hub, or of a mirror named by HF_ENDPOINT."""

    def __init__(self, source: Source, token: SecretStr | None) -> None:
        self._source = source
        self._secret = token
        self._commit: str | None = source.revision

    def __str__(self) -> str:
        return self._source.origin

    @property
    def _token(self) -> str | Literal[False]:
        """`False` and never None for none: then no token that lies around on the machine is sent."""
        return self._secret.get_secret_value() if self._secret else False

    def sizes(self) -> Mapping[str, int]:
        """As the hub lists them. Raises SourceError."""
        with self._refusals():
            info = HfApi(token=self._token).model_info(
                self._source.origin,
                revision=self._source.revision,
                files_metadata=True,
                timeout=ANSWER_SECONDS,
            )
        self._commit = info.sha or self._commit
        return {each.rfilename: each.size or 0 for each in info.siblings or ()}

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """One file, fetched only as far as it is read. Raises SourceError."""
        with self._get(name, {}) as response:
            yield cast("BinaryIO", ForwardStream(response.iter_bytes()))

    def read(self, name: str, start: int, size: int) -> bytes:
        """A piece of a file. Raises SourceError."""
        with self._get(name, {"Range": f"bytes={start}-{start + size - 1}", **AS_IT_IS}) as response:
            stream = ForwardStream(response.iter_bytes())
            if response.status_code != PARTIAL_CONTENT:
                stream.seek(start, 1)  # a mirror that gives whole files only
            return stream.read(size)

    @contextmanager
    def _get(self, name: str, asked: Mapping[str, str]) -> Iterator[Response]:
        url = hf_hub_url(self._source.origin, name, revision=self._commit)
        headers = {**build_hf_headers(token=self._token), **asked}
        with (
            self._refusals(),
            get_session().stream(
                "GET", url, headers=headers, follow_redirects=True, timeout=ANSWER_SECONDS
            ) as response,
        ):
            hf_raise_for_status(response)
            yield response

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except REFUSALS as error:
            message = explain_refusal(self._source, error, with_token=self._secret is not None)
            raise SourceError(message) from None


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
