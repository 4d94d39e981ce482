"""What a model is, read from its source without loading it: its config.json or GGUF metadata, and what its tensors are.

Whoever deploys a model decides what these files hold, so how much of them is read is bounded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import SecretStr

from plinth.api.v1alpha1 import Reason
from plinth.cluster.gguf_files import read_gguf
from plinth.cluster.repositories import FolderRepository, HubRepository, Repository
from plinth.cluster.tensor_headers import INDEX, indexed_files, read_safetensors
from plinth.domain.fleet import Artifact, ArtifactRefusal, ModelFormat
from plinth.domain.sources import Source, SourceScheme, detect_format, parse_source, select_files
from plinth.engine.local_sources import SourcePlaces, find_local
from plinth.engine.seam import SourceError

MAX_CONFIG_BYTES = 4 * 2**20
"""Large ones have some hundreds of kilobytes."""
CONFIG = "config.json"
MODELOPT = "hf_quant_config.json"


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
    if not weights_needed and CONFIG in sizes and not any(map(_holds_weights, sizes)):
        config = _read_config(repository, sizes)
        return Artifact(format=ModelFormat.SAFETENSORS, config=config, weights_bytes=0)
    chosen = select_files(sizes, named)
    weights = {name: sizes[name] for name in chosen if _holds_weights(name)}
    if detect_format(chosen) is ModelFormat.GGUF:
        metadata, tensors = read_gguf(repository, weights)
        return Artifact(
            format=ModelFormat.GGUF,
            config=metadata,
            weights_bytes=sum(weights.values()),
            tensors=tensors,
        )
    if CONFIG not in sizes:
        raise ValueError("has no config.json beside its weights; without it nothing can be planned")
    config = _read_config(repository, sizes)
    if INDEX in sizes and len(weights) > 1:
        weights = {name: sizes[name] for name in indexed_files(repository, list(weights))}
    return Artifact(
        format=ModelFormat.SAFETENSORS,
        config=config,
        weights_bytes=sum(weights.values()),
        tensors=read_safetensors(repository, weights),
    )


def _holds_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".gguf"))


def _read_config(repository: Repository, sizes: Mapping[str, int]) -> dict[str, object]:
    """The config.json; how the weights are quantised may stand in a file beside it, as ModelOpt wrote it at first.

    vllm/transformers_utils/config.py, `get_config`, reads both.
    """
    config = _load_json(repository, CONFIG)
    stated = config.get("quantization_config") or config.get("compression_config")
    if stated is None and MODELOPT in sizes:
        stated = _load_json(repository, MODELOPT)
    return config if stated is None else {**config, "quantization_config": stated}


def _load_json(repository: Repository, name: str) -> dict[str, object]:
    with repository.open(name) as stream:
        text = stream.read(MAX_CONFIG_BYTES + 1)
    if len(text) > MAX_CONFIG_BYTES:
        raise ValueError(f"its {name} is larger than {MAX_CONFIG_BYTES} bytes")
    config = json.loads(text)
    if not isinstance(config, dict):
        raise ValueError(f"its {name} must hold an object")  # noqa: TRY004 - of the file, not of a caller
    return config
