"""What a model is made of, read from its config.json or GGUF metadata; the first step from a model to a shape.

Unreadable is a value (`ArtifactRefusal` naming what is missing), since it is the user's to mend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from plinth.api.v1alpha1 import Reason
from plinth.domain.fleet import Artifact, ArtifactRefusal, ModelFormat

KV_ELEMENT_BYTES = 2
"""Both engines keep K and V at 16 bits unless told otherwise."""

ENCODERS = ("bert", "roberta", "mpnet", "electra", "distilbert", "deberta")
"""Model types (by how they end) that read a text at once and keep no KV cache."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The numbers that planning needs of a model."""

    name: str
    """`qwen2`, `llama`, …"""
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    intermediate: int
    """Width of the feed-forward part, over all experts; 0 when not stated."""
    max_context_tokens: int
    """0 when not stated."""
    vocabulary: int
    kv_bytes_per_token: int
    """Whole model, both K and V, at 2 bytes an element; 0 for an encoder, which keeps none."""
    kv_is_latent: bool
    """Multi-head latent attention: one latent a token, not sharded by tensor parallelism."""
    dtype_bytes: int

    @property
    def parameters(self) -> int:
        """Estimated number of weights: attention, gated feed-forward and one tied embedding.

        SmolLM2-135M: 30 · (2 · 576 · 576 + 2 · 576 · 192 + 3 · 576 · 1536) + 49152 · 576 = 134,479,872.
        """
        attention = (
            2 * self.hidden * self.heads * self.head_dim + 2 * self.hidden * self.kv_heads * self.head_dim
        )
        return self.layers * (attention + 3 * self.hidden * self.intermediate) + self.vocabulary * self.hidden

    def kv_shards(self, tensor: int) -> int:
        """Into how many parts tensor parallelism splits the KV cache; beyond the KV heads it is replicated."""
        return 1 if self.kv_is_latent else min(tensor, self.kv_heads)


def read_architecture(artifact: Artifact) -> Architecture | ArtifactRefusal:
    """The architecture, or which entries are missing. Formulae: KV as in vLLM, 2 · layers · KV heads · head dim · 2."""
    if artifact.format is ModelFormat.GGUF:
        return _from_gguf(artifact.config)
    return _from_config(artifact.config)


def _from_gguf(found: Mapping[str, object]) -> Architecture | ArtifactRefusal:
    name = found.get("general.architecture")
    if not isinstance(name, str):
        return _missing(["general.architecture"], "GGUF metadata")
    needed = {part: f"{name}.{part}" for part in ("block_count", "embedding_length", "attention.head_count")}
    absent = [key for key in needed.values() if not _numbers(found.get(key))]
    if absent:
        return _missing(absent, "GGUF metadata")
    layers = _largest(found, needed["block_count"])
    hidden = _largest(found, needed["embedding_length"])
    heads = _largest(found, needed["attention.head_count"])
    per_layer_kv = _numbers(found.get(f"{name}.attention.head_count_kv")) or [heads]
    key_length = _largest(found, f"{name}.attention.key_length") or hidden // heads
    value_length = _largest(found, f"{name}.attention.value_length") or key_length
    kv_heads_in_all = sum(per_layer_kv) if len(per_layer_kv) > 1 else per_layer_kv[0] * layers
    keeps_kv = found.get(f"{name}.attention.causal") is not False and not name.endswith(ENCODERS)
    tokens = found.get("tokenizer.ggml.tokens")
    return Architecture(
        name=name,
        layers=layers,
        heads=heads,
        kv_heads=max(per_layer_kv),
        head_dim=key_length,
        hidden=hidden,
        intermediate=_largest(found, f"{name}.feed_forward_length")
        * max(1, _largest(found, f"{name}.expert_count")),
        max_context_tokens=_largest(found, f"{name}.context_length"),
        vocabulary=_largest(found, f"{name}.vocab_size")
        or _largest(found, "tokenizer.ggml.tokens.length")
        or (len(tokens) if isinstance(tokens, list | tuple) else 0),
        kv_bytes_per_token=kv_heads_in_all * (key_length + value_length) * KV_ELEMENT_BYTES
        if keeps_kv
        else 0,
        kv_is_latent=False,
        dtype_bytes=KV_ELEMENT_BYTES,
    )


def _from_config(found: Mapping[str, object]) -> Architecture | ArtifactRefusal:
    inner = found.get("text_config")
    config = {**found, **inner} if isinstance(inner, Mapping) else found
    needed = ("num_hidden_layers", "hidden_size", "num_attention_heads")
    absent = [key for key in needed if not _numbers(config.get(key))]
    if absent:
        return _missing(absent, "config.json")
    layers, hidden, heads = (_largest(config, key) for key in needed)
    kv_heads = _largest(config, "num_key_value_heads") or heads
    head_dim = _largest(config, "head_dim") or hidden // heads
    latent = _largest(config, "kv_lora_rank")
    name = str(config.get("model_type", "unknown"))
    # Transformers calls the count of experts by either name; the width of one expert stands beside it.
    experts = _largest(config, "num_experts") or _largest(config, "num_local_experts")
    width = (experts and _largest(config, "moe_intermediate_size")) or _largest(config, "intermediate_size")
    elements = latent + _largest(config, "qk_rope_head_dim") if latent else 2 * kv_heads * head_dim
    return Architecture(
        name=name,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden=hidden,
        intermediate=width * max(1, experts),
        max_context_tokens=_largest(config, "max_position_embeddings"),
        vocabulary=_largest(config, "vocab_size"),
        kv_bytes_per_token=0 if name.endswith(ENCODERS) else layers * elements * KV_ELEMENT_BYTES,
        kv_is_latent=latent > 0,
        dtype_bytes=4 if "float32" in (config.get("torch_dtype"), config.get("dtype")) else KV_ELEMENT_BYTES,
    )


def _missing(keys: list[str], where: str) -> ArtifactRefusal:
    message = f"the model's {where} lacks {', '.join(keys)}; without it no shape can be planned"
    return ArtifactRefusal(reason=Reason.MODEL_UNREADABLE, message=message)


def _numbers(value: object) -> list[int]:
    """Positive whole numbers in a value that is one or a list of them (GGUF states head counts either way)."""
    values = value if isinstance(value, list | tuple) else [value]
    return [each for each in values if isinstance(each, int) and not isinstance(each, bool) and each > 0]


def _largest(config: Mapping[str, object], key: str) -> int:
    return max(_numbers(config.get(key)), default=0)
