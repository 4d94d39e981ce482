"""The public models of public_models.yaml, for tests that go through all of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from plinth.domain.fleet import ArtifactRefusal, ModelFormat
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.headers import StoredTensor, group_tensors
from plinth.domain.models.reading import read_model


@dataclass(frozen=True, kw_only=True)
class PublicModel:
    """One model and what is published of it."""

    config: Mapping[str, object]
    kv: int
    stored: int = 0
    beside: int = 0
    counted: int = 0

    @property
    def parameters(self) -> int:
        """Weights that an engine loads."""
        return self.counted or self.stored - self.beside


PUBLIC_MODELS: Mapping[str, PublicModel] = {
    name: PublicModel(**entry)
    for name, entry in yaml.safe_load(Path(__file__).with_name("public_models.yaml").read_text()).items()
}


def read(
    config: Mapping[str, object],
    model_format: ModelFormat = ModelFormat.SAFETENSORS,
    tensors: Iterable[StoredTensor] = (),
) -> ModelArchitecture:
    found = read_model(config, format=model_format, tensors=group_tensors(tensors))
    assert isinstance(found, ModelArchitecture), found
    return found


def read_public(name: str, **changes: object) -> ModelArchitecture:
    """A public model, with some entries of its config changed."""
    return read({**PUBLIC_MODELS[name].config, **changes})


def refusal_of(config: Mapping[str, object], model_format: ModelFormat = ModelFormat.SAFETENSORS) -> str:
    found = read_model(config, format=model_format)
    assert isinstance(found, ArtifactRefusal), found
    return found.message
