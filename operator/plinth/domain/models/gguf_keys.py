"""GGUF metadata in the words of a config.json, so that one reader serves both.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; block sizes: gguf-py/gguf/constants.py,
`GGML_QUANT_SIZES`; bits of whole files: llama.cpp, tools/quantize/README.md (Llama-3.1-8B).
"""

from __future__ import annotations

from collections.abc import Mapping

from plinth.domain.models.quantization import Quantization
from plinth.domain.models.weights import Part

ENTRIES: Mapping[str, str] = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "vocab_size": "vocab_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "v_head_dim",
    "attention.sliding_window": "sliding_window",
    "attention.kv_lora_rank": "kv_lora_rank",
    "attention.q_lora_rank": "q_lora_rank",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "expert_shared_count": "n_shared_experts",
    "leading_dense_block_count": "first_k_dense_replace",
    "full_attention_interval": "full_attention_interval",
    "shortconv.l_cache": "conv_L_cache",
    "ssm.conv_kernel": "mamba_d_conv",
    "ssm.state_size": "mamba_d_state",
    "ssm.inner_size": "mamba_inner_size",
}
"""What an architecture's key says, without its prefix, by config.json's name."""
FAMILY_NAMES = {
    "qwen2moe": "qwen2_moe",
    "qwen2vl": "qwen2_vl",
    "qwen3moe": "qwen3_moe",
    "qwen3next": "qwen3_next",
    "qwen35": "qwen3_5",
    "qwen35moe": "qwen3_5_moe",
    "deepseek2": "deepseek_v3",
    "gpt-oss": "gpt_oss",
    "glm4moe": "glm4_moe",
    "minimax-m2": "minimax_m2",
    "granitehybrid": "granitemoehybrid",
    "nomic-bert": "nomic_bert",
    "modern-bert": "modernbert",
    "gptneox": "gpt_neox",
    "phi2": "phi",
}
"""Where the two formats name a family differently."""
BLOCKS: Mapping[str, tuple[int, int]] = {
    "F64": (1, 8),
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    "I64": (1, 8),
    "I32": (1, 4),
    "I16": (1, 2),
    "I8": (1, 1),
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q8_1": (32, 40),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "Q8_K": (256, 292),
    "IQ1_S": (256, 50),
    "IQ1_M": (256, 56),
    "IQ2_XXS": (256, 66),
    "IQ2_XS": (256, 74),
    "IQ2_S": (256, 82),
    "IQ3_XXS": (256, 98),
    "IQ3_S": (256, 110),
    "IQ4_NL": (32, 18),
    "IQ4_XS": (256, 136),
    "TQ1_0": (256, 54),
    "TQ2_0": (256, 66),
    "Q1_0": (128, 18),
    "MXFP4": (32, 17),
    "NVFP4": (64, 36),
}
"""Weights of a block, and its bytes."""
TENSOR_TYPES: Mapping[int, str] = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q5_0", "Q5_1", "Q8_0", "Q8_1"), start=6)),
    **dict(enumerate(("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K"), start=10)),
    **dict(enumerate(("IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S"), start=16)),
    **dict(enumerate(("IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M", "BF16"), start=23)),
    **dict(enumerate(("TQ1_0", "TQ2_0"), start=34)),
    **dict(enumerate(("MXFP4", "NVFP4", "Q1_0"), start=39)),
}
"""A tensor's type by its number in the file (gguf-py/gguf/constants.py, `GGMLQuantizationType`)."""
FILE_TYPES: Mapping[int, int] = {
    0: 3200,
    1: 1600,
    2: 464,
    3: 508,
    7: 850,
    8: 557,
    9: 603,
    10: 316,
    11: 364,
    12: 400,
    13: 430,
    14: 467,
    15: 489,
    16: 557,
    17: 570,
    18: 656,
    19: 238,
    20: 259,
    21: 297,
    22: 350,
    23: 325,
    24: 200,
    25: 468,
    26: 366,
    27: 376,
    28: 274,
    29: 294,
    30: 446,
    31: 215,
    32: 1600,
    38: 425,
}
"""Bits of a weight in hundredths over a whole file, by `general.file_type`."""


def translate_gguf(found: Mapping[str, object], architecture: str) -> Mapping[str, object]:
    """The metadata under config.json's names."""
    config: dict[str, object] = {
        name: found[f"{architecture}.{key}"]
        for key, name in ENTRIES.items()
        if f"{architecture}.{key}" in found
    }
    config["model_type"] = FAMILY_NAMES.get(architecture, architecture)
    config.setdefault("vocab_size", _count_tokens(found))
    # Layers that predict further tokens are counted as blocks, and engines leave them alone.
    blocks, predicting = (
        found.get(f"{architecture}.block_count"),
        found.get(f"{architecture}.nextn_predict_layers"),
    )
    if isinstance(blocks, int) and isinstance(predicting, int):
        config["num_hidden_layers"] = blocks - predicting
    if config.get("kv_lora_rank"):
        config.update(_latent_entries(found, architecture))
    return config


def gguf_key(architecture: str, name: str) -> str:
    """The metadata's key for an entry of config.json's."""
    return f"{architecture}.{next(key for key, each in ENTRIES.items() if each == name)}"


def read_gguf_quantization(found: Mapping[str, object]) -> Quantization | None:
    """By the file's type; None where it is not stated or known, or the weights are at full width."""
    stated = found.get("general.file_type")
    bits = FILE_TYPES.get(stated) if isinstance(stated, int) else None
    if bits is None:
        return None
    return Quantization(method="gguf", weight_bits_hundredths=bits, kept_in_full=frozenset({Part.VECTORS}))


def _latent_entries(found: Mapping[str, object], architecture: str) -> dict[str, object]:
    """Widths of one head, which newer files state apart from those of the latent that all heads share."""
    rope = found.get(f"{architecture}.rope.dimension_count")
    key = found.get(
        f"{architecture}.attention.key_length_mla", found.get(f"{architecture}.attention.key_length")
    )
    value = found.get(
        f"{architecture}.attention.value_length_mla", found.get(f"{architecture}.attention.value_length")
    )
    nope = key - rope if isinstance(key, int) and isinstance(rope, int) else None
    return {"qk_rope_head_dim": rope, "qk_nope_head_dim": nope, "v_head_dim": value}


def _count_tokens(found: Mapping[str, object]) -> int:
    """The vocabulary by its tokens, where no size is stated."""
    length = found.get("tokenizer.ggml.tokens.length")
    if isinstance(length, int):
        return length
    tokens = found.get("tokenizer.ggml.tokens")
    return len(tokens) if isinstance(tokens, list | tuple) else 0
