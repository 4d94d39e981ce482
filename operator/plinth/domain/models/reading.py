"""From what is at hand of a model to its architecture: config.json or GGUF metadata, sharpened by tensor headers."""

from __future__ import annotations

from collections.abc import Mapping

from plinth.api.v1alpha1 import Reason
from plinth.domain.fleet import ArtifactRefusal, ModelFormat
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.families import Family, find_family
from plinth.domain.models.gguf_keys import gguf_key, read_gguf_quantization, translate_gguf
from plinth.domain.models.headers import TensorGroup
from plinth.domain.models.keys import Keys
from plinth.domain.models.layer_reading import read_layers
from plinth.domain.models.outer import count_outer_vectors, guess_task
from plinth.domain.models.quantization import Quantization
from plinth.domain.models.quantization_reading import read_quantization
from plinth.domain.models.rotary import rotary_bytes
from plinth.domain.models.tensors import sharpen
from plinth.domain.models.vision import count_vision

NEEDED = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")
MOST_LAYERS = 10_000
"""Layers are told apart one by one: a config made to do harm must not keep the planner busy."""
LANGUAGE_PARTS = ("text_config", "llm_config", "language_config")
"""Under which a model with towers keeps the config of its language part."""


def read_model(
    config: Mapping[str, object],
    *,
    format: ModelFormat,  # noqa: A002 - the artifact's own word
    tensors: tuple[TensorGroup, ...] = (),
) -> ModelArchitecture | ArtifactRefusal:
    """The architecture, or a refusal that names what is missing. `config` is config.json, or the GGUF metadata.

    Without `tensors` all is computed from the config alone.
    """
    is_gguf = format is ModelFormat.GGUF
    found = _read_gguf(config) if is_gguf else _read_config(config)
    if not tensors or isinstance(found, ArtifactRefusal):
        return found
    return sharpen(found, tensors, is_gguf=is_gguf)


def _read_gguf(metadata: Mapping[str, object]) -> ModelArchitecture | ArtifactRefusal:
    name = metadata.get("general.architecture")
    if not isinstance(name, str):
        return _refuse("GGUF metadata lacks general.architecture")
    config = translate_gguf(metadata, name)
    keys = _keys_of(config)
    absent = keys.missing(*NEEDED)
    if absent:
        return _refuse(f"GGUF metadata lacks {', '.join(gguf_key(name, each) for each in absent)}")
    if keys.number("num_hidden_layers") > MOST_LAYERS:
        return _refuse("GGUF metadata states more layers than any model has")
    return _build(config, quantization=read_gguf_quantization(metadata), name=name)


def _read_config(config: Mapping[str, object]) -> ModelArchitecture | ArtifactRefusal:
    name = str(config.get("model_type", "unknown"))
    keys = _keys_of(config)
    absent = keys.missing(*NEEDED)
    if absent:
        return _refuse(f"config.json lacks {', '.join(absent)}")
    if keys.number("num_hidden_layers") > MOST_LAYERS:
        return _refuse("config.json states more layers than any model has")
    if keys.flag("is_encoder_decoder"):
        return _refuse(f"config.json is of an encoder with a decoder ({name}), which neither engine serves")
    quantization = read_quantization(keys.section("quantization_config"), keys.number("num_hidden_layers"))
    if isinstance(quantization, ArtifactRefusal):
        return quantization
    return _build(config, quantization=quantization, name=name)


def _build(
    config: Mapping[str, object], *, quantization: Quantization | None, name: str
) -> ModelArchitecture:
    keys, family = _keys_of(config), _family_of(config)
    layers, order = read_layers(keys, family)
    task = guess_task(keys, family)
    hidden = keys.number("hidden_size")
    return ModelArchitecture(
        name=name,
        layers=layers,
        order=order if len(layers) > 1 else (),
        hidden=hidden,
        vocabulary=keys.number("vocab_size"),
        tied_embeddings=bool(keys.flag("tie_word_embeddings")),
        max_context_tokens=keys.number("max_position_embeddings"),
        quantization=quantization,
        vision_parameters=count_vision(config, hidden),
        outer_vectors=count_outer_vectors(keys, family, task),
        rotary_bytes=rotary_bytes(keys, max(each.attention.head_dim for each in layers)),
        task=task,
    )


def _family_of(config: Mapping[str, object]) -> Family:
    return find_family(str(_language_part(config).get("model_type", "")))


def _keys_of(config: Mapping[str, object]) -> Keys:
    return Keys(_language_part(config), _family_of(config).unsaid)


def _language_part(config: Mapping[str, object]) -> Mapping[str, object]:
    """The config with its language part's entries on top."""
    inner = next((config[key] for key in LANGUAGE_PARTS if isinstance(config.get(key), Mapping)), None)
    return {**config, **inner} if isinstance(inner, Mapping) else config


def _refuse(what: str) -> ArtifactRefusal:
    message = f"the model's {what}; without it no shape can be planned"
    return ArtifactRefusal(reason=Reason.MODEL_UNREADABLE, message=message)
