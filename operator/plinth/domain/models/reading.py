"""From what is at hand of a model to its architecture: config.json or GGUF metadata, sharpened by tensor headers."""

from __future__ import annotations

from collections.abc import Mapping

from plinth.domain.fleet import ArtifactRefusal, ModelFormat
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.tensors import TensorInfo


def read_model(
    config: Mapping[str, object],
    *,
    format: ModelFormat,  # noqa: A002 - the artifact's own word
    tensors: Mapping[str, TensorInfo] | None = None,
) -> ModelArchitecture | ArtifactRefusal:
    """The architecture, or a refusal that names what is missing. `config` is config.json, or the GGUF metadata."""
    raise NotImplementedError
