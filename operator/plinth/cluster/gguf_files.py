"""A GGUF model's metadata and tensors, read from the heads of its files and no further.

Whoever deploys a model decides what these files hold, so how much of them is read is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO, cast

from plinth.cluster.gguf_header import GGUFError, GGUFMetadata, read_gguf_metadata, read_gguf_tensors
from plinth.cluster.repositories import Repository
from plinth.cluster.tensor_headers import gather_tensors
from plinth.domain.models.headers import StoredTensor, TensorGroup

MAX_HEAD_BYTES = 32 * 2**20
"""Eight for each token and each merge of the vocabulary, whose texts are skipped, and 80 for each tensor."""
MAX_SKIPPED_BYTES = 256 * 2**20
"""The texts and scores of the vocabulary."""
KEPT_CHARACTERS = 4096
"""Longer texts are templates for prompts, which planning has no use for."""
_TOO_LARGE = "its metadata is larger than that of a sound file"


def read_gguf(
    repository: Repository, files: Mapping[str, int]
) -> tuple[dict[str, object], tuple[TensorGroup, ...]]:
    """The metadata of a model in these files, whose sizes are given, and its tensors.

    Raises:
        SourceError, ValueError, OSError: the first file's metadata cannot be read.
    """
    first, *others = files
    with _head(repository, first) as (metadata, stream):
        known = read_gguf_tensors(stream, metadata.tensors, files[first])
        read = partial(_read_tensors, repository, files)
        tensors = gather_tensors(repository, read, others, known=known)
    kept = {key: value for key, value in metadata.entries.items() if not _is_long(value)}
    return kept, tensors


def _read_tensors(repository: Repository, files: Mapping[str, int], name: str) -> Sequence[StoredTensor]:
    with _head(repository, name) as (metadata, stream):
        return list(read_gguf_tensors(stream, metadata.tensors, files[name]))


@contextmanager
def _head(repository: Repository, name: str) -> Iterator[tuple[GGUFMetadata, BinaryIO]]:
    """A file's metadata, and the stream where it ends."""
    with repository.open(name) as opened:
        stream = cast("BinaryIO", BoundedStream(opened, read=MAX_HEAD_BYTES, skipped=MAX_SKIPPED_BYTES))
        yield read_gguf_metadata(stream), stream


def _is_long(value: object) -> bool:
    return isinstance(value, str) and len(value) > KEPT_CHARACTERS


class BoundedStream:
    """A stream of which only so many bytes are read, and so many skipped: of a hub's file, each has to be fetched."""

    def __init__(self, stream: BinaryIO, *, read: int, skipped: int) -> None:
        self._stream = stream
        self._may_read = read
        self._may_skip = skipped

    def read(self, size: int) -> bytes:
        """As the stream does. Raises GGUFError once too much was read."""
        self._may_read -= size
        if self._may_read < 0:
            raise GGUFError(_TOO_LARGE)
        return self._stream.read(size)

    def seek(self, offset: int, whence: int) -> int:
        """As the stream does. Raises GGUFError once too much was skipped."""
        self._may_skip -= offset
        if self._may_skip < 0:
            raise GGUFError(_TOO_LARGE)
        return self._stream.seek(offset, whence)
