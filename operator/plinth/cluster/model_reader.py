"""What a model is, read without loading it: its config.json or GGUF metadata, and how large its weights are.

The adapter behind the cycle's `ModelReader` port. Reading goes on in threads; until it is done the answer is None,
and a wake-up follows. A failure is kept for a while, then tried again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from plinth.api.v1alpha1 import ModelDeployment, Reason
from plinth.cluster.gguf_header import GGUFError, read_gguf_metadata
from plinth.cluster.repositories import open_repository
from plinth.domain.fleet import Artifact, ArtifactRefusal, ModelFormat
from plinth.domain.sources import Source, detect_format, parse_source, select_files
from plinth.engine.seam import SourceError

RETRY_SECONDS = 30.0

Reading = tuple[str, str | None, str | None]
"""Source, revision and credentials: what decides what is read."""


@dataclass(frozen=True, kw_only=True)
class _Read:
    result: Artifact | ArtifactRefusal
    at: float


class BackgroundModelReader:
    """Reads each model once, in the background, and keeps what it found."""

    def __init__(self, secrets_dir: Path, *, wake: Callable[[], None], clock: Callable[[], float]) -> None:
        self._secrets_dir = secrets_dir
        self._wake = wake
        self._clock = clock
        self._known: dict[Reading, _Read] = {}
        self._pending: dict[Reading, asyncio.Task[None]] = {}

    def read(self, model: ModelDeployment) -> Artifact | ArtifactRefusal | None:
        """What is known of the model; None while it is being read."""
        reading = _reading(model)
        known = self._known.get(reading)
        stale = known is None or (
            isinstance(known.result, ArtifactRefusal) and self._clock() - known.at > RETRY_SECONDS
        )
        if stale and reading not in self._pending:
            self._pending[reading] = asyncio.create_task(self._fetch(reading))
        return known.result if known else None

    def forget_all_but(self, models: Iterable[ModelDeployment]) -> None:
        """Drop what was read of models that are gone."""
        kept = {_reading(model) for model in models}
        for gone in self._known.keys() - kept:
            del self._known[gone]

    async def _fetch(self, reading: Reading) -> None:
        try:
            result = await asyncio.to_thread(read_artifact, *reading, self._secrets_dir)
        finally:
            del self._pending[reading]
        self._known[reading] = _Read(result=result, at=self._clock())
        self._wake()


def read_artifact(
    text: str, revision: str | None, credentials: str | None, secrets_dir: Path
) -> Artifact | ArtifactRefusal:
    """Read a model's configuration and size from its source."""
    try:
        source = parse_source(text, revision)
    except ValueError as error:
        return ArtifactRefusal(reason=Reason.UNKNOWN_SOURCE, message=f"spec.model.source: {error}")
    try:
        return _read(source, credentials, secrets_dir)
    except SourceError as error:
        return ArtifactRefusal(reason=Reason.MODEL_NOT_FOUND, message=f"spec.model.source {text}: {error}")
    except (ValueError, GGUFError) as error:
        return ArtifactRefusal(reason=Reason.MODEL_UNREADABLE, message=f"spec.model.source {text}: {error}")


def _read(source: Source, credentials: str | None, secrets_dir: Path) -> Artifact:
    repository = open_repository(source, credentials=credentials, secrets_dir=secrets_dir)
    sizes = repository.sizes()
    chosen = select_files(sizes, source.file)
    found = detect_format(chosen)
    if found is ModelFormat.GGUF:
        with repository.open(chosen[0]) as stream:
            config = read_gguf_metadata(stream)
    else:
        if "config.json" not in sizes:
            raise ValueError("has no config.json beside its weights; without it nothing can be planned")
        with repository.open("config.json") as stream:
            config = json.load(stream)
    suffix = ".gguf" if found is ModelFormat.GGUF else ".safetensors"
    weights = sum(sizes[name] for name in chosen if name.endswith(suffix))
    return Artifact(format=found, config=config, weights_bytes=weights)


def _reading(model: ModelDeployment) -> Reading:
    asked = model.spec.model
    credentials = f"{asked.credentials.name}/{asked.credentials.key}" if asked.credentials else None
    return asked.source, asked.revision, credentials
