"""What a config.json leaves unsaid because the code of its family knows it: which vectors there are, and defaults.

A family that is not listed reads as Llama. Source of each entry: the family's modeling_*.py and configuration_*.py in
Transformers 5.23 (https://github.com/huggingface/transformers/tree/main/src/transformers/models).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class HeadNorm(StrEnum):
    """Whether queries and keys are normed."""

    NONE = "none"
    EACH_HEAD = "eachHead"
    """One norm of a head's width for all heads."""
    ALL_HEADS = "allHeads"
    """One norm as wide as all heads together."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Traits of one family; a flag that the config states itself is None here."""

    norms: int = 2
    """Norms of the hidden state in each layer."""
    norm_bias: bool = False
    """LayerNorm with a bias, and not RMSNorm."""
    last_norm: bool = True
    head_norm: HeadNorm = HeadNorm.NONE
    qkv_bias: bool | None = None
    """None: as `attention_bias` says."""
    output_bias: bool | None = None
    """The same."""
    feed_forward_bias: bool | None = None
    """None: as `mlp_bias` says."""
    gated: bool = True
    output_gate: bool = False
    sinks: bool = False
    """A learned logit for each head (gpt-oss)."""
    expert_bias: bool = False
    """Router and experts have biases (gpt-oss)."""
    corrected_router: bool = False
    """The router has a correction for each expert (DeepSeek-V3)."""
    head_bias: bool = False
    learned_positions: bool = False
    encoder: bool = False
    unsaid: Mapping[str, object] = field(default_factory=dict)
    """Entries that config.json may leave out, with the family's defaults."""


TIED = {"tie_word_embeddings": True}
QWEN2 = Family(qkv_bias=True, output_bias=False, unsaid={"use_sliding_window": False})
QWEN3 = Family(head_norm=HeadNorm.EACH_HEAD, unsaid={"use_sliding_window": False, "head_dim": 128})
QWEN3_NEXT = Family(
    head_norm=HeadNorm.EACH_HEAD,
    output_gate=True,
    unsaid={"full_attention_interval": 4, "head_dim": 256},
)
GEMMA3 = Family(
    norms=4,
    head_norm=HeadNorm.EACH_HEAD,
    unsaid={
        **TIED,
        "sliding_window_pattern": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
    },
)
MISTRAL = Family(unsaid={"num_attention_heads": 32, "num_key_value_heads": 8})
DEEPSEEK_V3 = Family(corrected_router=True)
BIASED = Family(norm_bias=True, qkv_bias=True, output_bias=True, feed_forward_bias=True, gated=False)
"""With a bias in every matrix and norm, as transformers were at first."""
BERT = replace(BIASED, last_norm=False, learned_positions=True, encoder=True, unsaid=TIED)
"""Its layer is normed after attention and after the feed-forward part, so none is left for the end."""

LLAMA = Family()
FAMILIES: Mapping[str, Family] = {
    "qwen2": QWEN2,
    "qwen2_moe": QWEN2,
    "qwen2_vl": QWEN2,
    "qwen2_5_vl": QWEN2,
    "qwen3": QWEN3,
    "qwen3_moe": QWEN3,
    "qwen3_vl": QWEN3,
    "qwen3_vl_moe": QWEN3,
    "qwen3_next": QWEN3_NEXT,
    "qwen3_5": QWEN3_NEXT,
    "qwen3_5_moe": QWEN3_NEXT,
    "mistral": MISTRAL,
    "mixtral": Family(unsaid={"num_experts": 8, "num_experts_per_tok": 2}),
    "gemma": Family(unsaid=TIED),
    "gemma2": Family(norms=4, unsaid={**TIED, "sliding_window_pattern": 2, "sliding_window": 4096}),
    "gemma3": GEMMA3,
    "olmo2": Family(head_norm=HeadNorm.ALL_HEADS),
    "olmo3": Family(head_norm=HeadNorm.ALL_HEADS, unsaid={"sliding_window_pattern": 4}),
    "olmoe": Family(head_norm=HeadNorm.ALL_HEADS),
    "cohere": Family(norms=1, unsaid=TIED),
    "cohere2": Family(norms=1, unsaid={**TIED, "sliding_window_pattern": 4}),
    "smollm3": Family(unsaid=TIED),
    "glm4": Family(norms=4, output_bias=False),
    "glm4_moe": Family(output_bias=False, corrected_router=True),
    "minimax_m2": Family(head_norm=HeadNorm.ALL_HEADS, corrected_router=True),
    "deepseek_v3": DEEPSEEK_V3,
    "deepseek_v32": DEEPSEEK_V3,
    "kimi_k2": DEEPSEEK_V3,
    "glm_moe_dsa": DEEPSEEK_V3,
    "llama4": Family(unsaid={"n_shared_experts": 1}),
    "gpt_oss": Family(
        qkv_bias=True, output_bias=True, sinks=True, expert_bias=True, unsaid={"sliding_window_pattern": 2}
    ),
    "jamba": Family(unsaid={"num_experts": 16, "num_experts_per_tok": 2}),
    "nemotron_h": Family(norms=1, gated=False, corrected_router=True),
    "starcoder2": replace(BIASED, unsaid=TIED),
    "phi": replace(BIASED, norms=1, head_bias=True),
    "phimoe": Family(norm_bias=True, head_bias=True),
    "gpt2": replace(BIASED, learned_positions=True, unsaid=TIED),
    "gpt_neox": BIASED,
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "camembert": BERT,
    "electra": BERT,
    "mpnet": BERT,
    "distilbert": BERT,
    "modernbert": Family(encoder=True, unsaid=TIED),
    "nomic_bert": Family(norm_bias=True, last_norm=False, encoder=True, unsaid=TIED),
}


def find_family(model_type: str) -> Family:
    """The family of a config's `model_type`; that of the language part of a model with towers has `_text` added."""
    name = model_type.removesuffix("_text")
    if name in FAMILIES:
        return FAMILIES[name]
    return BERT if name.endswith(("bert", "roberta")) else LLAMA
