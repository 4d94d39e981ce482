"""From what is at hand of a model to its architecture: config.json or GGUF metadata, sharpened by tensor headers."""

from __future__ import annotations

from collections.abc import Mapping

from plinth.api.v1alpha1 import Reason, Task
from plinth.domain.fleet import ArtifactRefusal, ModelFormat
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.families import find_family
from plinth.domain.models.gguf_keys import gguf_key, read_gguf_quantization, translate_gguf
from plinth.domain.models.keys import Keys
from plinth.domain.models.layer_reading import read_layers
from plinth.domain.models.outer import count_outer_vectors, guess_task
from plinth.domain.models.quantization import Quantization
from plinth.domain.models.quantization_reading import read_quantization
from plinth.domain.models.tensors import TensorInfo, sharpen
from plinth.domain.models.vision import count_vision

NEEDED = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")
LANGUAGE_PARTS = ("text_config", "llm_config", "language_config")
"""Under which a model with towers keeps the config of its language part."""


def read_model(
    config: Mapping[str, object],
    *,
    format: ModelFormat,  # noqa: A002 - the artifact's own word
    tensors: Mapping[str, TensorInfo] | None = None,
) -> ModelArchitecture | ArtifactRefusal:
    """The architecture, or a refusal that names what is missing. `config` is config.json, or the GGUF metadata."""
    if format is ModelFormat.GGUF:
        stated = config.get("general.architecture")
        if not isinstance(stated, str):
            return _refuse("GGUF metadata lacks general.architecture")
        found = _read(
            translate_gguf(config, stated), quantization=read_gguf_quantization(config), name=stated
        )
    else:
        entry = config.get("quantization_config")
        count = Keys(_language_part(config), {}).number("num_hidden_layers")
        quantization = read_quantization(entry if isinstance(entry, Mapping) else {}, count)
        if isinstance(quantization, ArtifactRefusal):
            return quantization
        found = _read(config, quantization=quantization, name=str(config.get("model_type", "unknown")))
    return sharpen(found, tensors) if tensors and isinstance(found, ModelArchitecture) else found


def _read(
    config: Mapping[str, object], *, quantization: Quantization | None, name: str
) -> ModelArchitecture | ArtifactRefusal:
    language = _language_part(config)
    family = find_family(str(language.get("model_type", "")))
    keys = Keys(language, family.unsaid)
    if keys.flag("is_encoder_decoder"):
        return _refuse(
            f"config.json describes an encoder and a decoder ({name}); only one of them can be planned"
        )
    absent = keys.missing(*NEEDED)
    if absent:
        return _refuse(f"config.json lacks {', '.join(absent)}")
    layers, order = read_layers(keys, family)
    task = guess_task(keys, family)
    hidden = keys.number("hidden_size")
    return ModelArchitecture(
        name=name,
        layers=layers,
        order=order if len(layers) > 1 else (),
        hidden=hidden,
        vocabulary=keys.number("vocab_size"),
        tied_embeddings=task is not Task.GENERATE or bool(keys.flag("tie_word_embeddings")),
        max_context_tokens=keys.number("max_position_embeddings"),
        quantization=quantization,
        vision_parameters=count_vision(config, hidden),
        outer_vectors=count_outer_vectors(keys, family, task),
        task=task,
    )


def _language_part(config: Mapping[str, object]) -> Mapping[str, object]:
    """The config with its language part's entries on top; only its own layers count, not the towers'."""
    inner = next((config[key] for key in LANGUAGE_PARTS if isinstance(config.get(key), Mapping)), None)
    return {**config, **inner} if isinstance(inner, Mapping) else config


def _refuse(what: str) -> ArtifactRefusal:
    message = f"the model's {what}; without it no shape can be planned"
    return ArtifactRefusal(reason=Reason.MODEL_UNREADABLE, message=message)
