"""What a model is, read from its source without loading it: its config.json or GGUF metadata, and how large its weights are.

Whoever deploys a model decides what these files hold, so how much of them is read is bounded.
"""

from __future__ import annotations

import json
from typing import BinaryIO, cast

from pydantic import SecretStr

from plinth.api.v1alpha1 import Reason
from plinth.cluster.gguf_header import GGUFError, read_gguf_metadata
from plinth.cluster.repositories import FolderRepository, HubRepository, Repository
from plinth.domain.fleet import Artifact, ArtifactRefusal, ModelFormat
from plinth.domain.sources import Source, SourceScheme, detect_format, parse_source, select_files
from plinth.engine.local_sources import SourcePlaces, find_local
from plinth.engine.seam import SourceError

MAX_CONFIG_BYTES = 4 * 2**20
"""Large ones have some hundreds of kilobytes."""
MAX_METADATA_BYTES = 32 * 2**20
"""Of a GGUF file: eight for each token and each merge of its vocabulary, whose texts are skipped."""
MAX_SKIPPED_BYTES = 256 * 2**20
"""Of a GGUF file: the texts and scores of its vocabulary."""
KEPT_CHARACTERS = 4096
"""Longer texts are templates for prompts, which planning has no use for."""
_TOO_LARGE = "its metadata is larger than that of a sound file"


def read_artifact(
    text: str,
    revision: str | None,
    *,
    token: SecretStr | None = None,
    places: SourcePlaces | None,
    weights_needed: bool = True,
) -> Artifact | ArtifactRefusal:
    """Read a model's configuration and size from its source; without `places`, none that lies on this machine.

    Where no weights are needed, a config.json alone will do: all that is planned can be computed from it.
    """
    try:
        source = parse_source(text, revision)
    except ValueError as error:
        return ArtifactRefusal(reason=Reason.UNKNOWN_SOURCE, message=f"spec.model.source: {error}")
    try:
        return _read(*_open(source, token, places), weights_needed=weights_needed)
    except SourceError as error:
        return ArtifactRefusal(reason=Reason.MODEL_NOT_FOUND, message=f"spec.model.source {text}: {error}")
    except (ValueError, RecursionError, OSError) as error:
        why = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        return ArtifactRefusal(reason=Reason.MODEL_UNREADABLE, message=f"spec.model.source {text}: {why}")


def _open(
    source: Source, token: SecretStr | None, places: SourcePlaces | None
) -> tuple[Repository, str | None]:
    """The repository behind a source, and the one file of it that is meant. Raises SourceError."""
    if source.scheme is SourceScheme.HF:
        return HubRepository(source, token), source.file
    if places is None:
        raise SourceError(f"{source.scheme}:// is not read here")
    try:
        files = find_local(source, places)
    except ValueError as error:
        raise SourceError(str(error)) from None
    return FolderRepository(files), files.file


def _read(repository: Repository, named: str | None, *, weights_needed: bool) -> Artifact:
    sizes = repository.sizes()
    if not weights_needed and "config.json" in sizes and not any(map(_holds_weights, sizes)):
        with repository.open("config.json") as stream:
            return Artifact(format=ModelFormat.SAFETENSORS, config=_load_config(stream), weights_bytes=0)
    chosen = select_files(sizes, named)
    found = detect_format(chosen)
    if found is ModelFormat.GGUF:
        with repository.open(chosen[0]) as stream:
            config = _load_metadata(stream)
    else:
        if "config.json" not in sizes:
            raise ValueError("has no config.json beside its weights; without it nothing can be planned")
        with repository.open("config.json") as stream:
            config = _load_config(stream)
    suffix = ".gguf" if found is ModelFormat.GGUF else ".safetensors"
    weights = sum(sizes[name] for name in chosen if name.endswith(suffix))
    return Artifact(format=found, config=config, weights_bytes=weights)


def _holds_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".gguf"))


def _load_metadata(stream: BinaryIO) -> dict[str, object]:
    bounded = BoundedStream(stream, read=MAX_METADATA_BYTES, skipped=MAX_SKIPPED_BYTES)
    found = read_gguf_metadata(cast("BinaryIO", bounded))
    return {
        key: value
        for key, value in found.items()
        if not (isinstance(value, str) and len(value) > KEPT_CHARACTERS)
    }


def _load_config(stream: BinaryIO) -> dict[str, object]:
    text = stream.read(MAX_CONFIG_BYTES + 1)
    if len(text) > MAX_CONFIG_BYTES:
        raise ValueError(f"its config.json is larger than {MAX_CONFIG_BYTES} bytes")
    config = json.loads(text)
    if not isinstance(config, dict):
        raise ValueError("its config.json must hold an object")  # noqa: TRY004 - of the file, not of a caller
    return config


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
