import pytest

from plinth.domain.architecture import Architecture, read_architecture
from plinth.domain.fleet import Artifact, ArtifactRefusal, ModelFormat
from plinth.tests.domain.builders import QWEN_32B_CONFIG, SMOL_METADATA


def read(config: dict[str, object], model_format: ModelFormat = ModelFormat.SAFETENSORS) -> Architecture:
    found = read_architecture(Artifact(format=model_format, config=config, weights_bytes=1))
    assert isinstance(found, Architecture)
    return found


def refuse(config: dict[str, object], model_format: ModelFormat) -> ArtifactRefusal:
    found = read_architecture(Artifact(format=model_format, config=config, weights_bytes=1))
    assert isinstance(found, ArtifactRefusal)
    return found


def test_a_config_json_gives_the_numbers_that_planning_needs() -> None:
    qwen = read(dict(QWEN_32B_CONFIG))
    assert (qwen.layers, qwen.heads, qwen.kv_heads, qwen.head_dim) == (64, 40, 8, 128)
    assert qwen.max_context_tokens == 32768
    assert qwen.kv_bytes_per_token == 262_144


def test_gguf_metadata_gives_the_same_numbers() -> None:
    smol = read(dict(SMOL_METADATA), ModelFormat.GGUF)
    assert (smol.layers, smol.heads, smol.kv_heads, smol.head_dim, smol.hidden) == (30, 9, 3, 64, 576)
    assert smol.kv_bytes_per_token == 2 * 30 * 3 * 64 * 2
    assert smol.parameters == 134_479_872


def test_the_vocabulary_is_counted_by_its_tokens_where_no_size_is_stated() -> None:
    without = {key: value for key, value in SMOL_METADATA.items() if key != "llama.vocab_size"}
    assert read({**without, "tokenizer.ggml.tokens.length": 49152}, ModelFormat.GGUF).vocabulary == 49152
    assert read({**without, "tokenizer.ggml.tokens": ["a", "b"]}, ModelFormat.GGUF).vocabulary == 2


def test_head_counts_stated_for_each_layer_are_added_up_for_kv() -> None:
    per_layer = {**SMOL_METADATA, "llama.attention.head_count_kv": [3] * 10 + [1] * 20}
    mixed = read(per_layer, ModelFormat.GGUF)
    assert mixed.kv_heads == 3
    assert mixed.kv_bytes_per_token == (10 * 3 + 20 * 1) * 2 * 64 * 2


def test_a_model_without_grouped_heads_has_a_kv_head_for_each_head() -> None:
    config = {key: value for key, value in QWEN_32B_CONFIG.items() if key != "num_key_value_heads"}
    assert read(config).kv_heads == 40


def test_latent_attention_keeps_one_latent_a_token_and_does_not_shard_it() -> None:
    deepseek = read({**QWEN_32B_CONFIG, "kv_lora_rank": 512, "qk_rope_head_dim": 64})
    assert deepseek.kv_bytes_per_token == 64 * (512 + 64) * 2
    assert deepseek.kv_shards(8) == 1


def test_kv_heads_are_replicated_once_there_are_more_ranks_than_heads() -> None:
    assert [read(dict(QWEN_32B_CONFIG)).kv_shards(tp) for tp in (1, 4, 8, 16)] == [1, 4, 8, 8]


def test_an_encoder_keeps_no_kv_cache_in_either_format() -> None:
    assert read({**QWEN_32B_CONFIG, "model_type": "xlm-roberta"}).kv_bytes_per_token == 0
    gguf = {key.replace("llama.", "bert."): value for key, value in SMOL_METADATA.items()}
    assert read({**gguf, "general.architecture": "bert"}, ModelFormat.GGUF).kv_bytes_per_token == 0


def test_a_model_of_text_and_images_is_read_by_its_text_part() -> None:
    assert read({"model_type": "vl", "text_config": dict(QWEN_32B_CONFIG)}).layers == 64


def test_experts_are_counted_into_the_feed_forward_width() -> None:
    moe = read({**QWEN_32B_CONFIG, "num_experts": 128, "moe_intermediate_size": 768})
    assert moe.intermediate == 128 * 768


@pytest.mark.parametrize("missing", ["num_hidden_layers", "hidden_size", "num_attention_heads"])
def test_an_unreadable_config_is_refused_naming_what_is_missing(missing: str) -> None:
    refusal = refuse(
        {key: value for key, value in QWEN_32B_CONFIG.items() if key != missing}, ModelFormat.SAFETENSORS
    )
    assert refusal.reason == "ModelUnreadable"
    assert missing in refusal.message
    assert "config.json" in refusal.message


def test_unreadable_gguf_metadata_is_refused_naming_what_is_missing() -> None:
    assert "general.architecture" in refuse({}, ModelFormat.GGUF).message
    message = refuse({"general.architecture": "llama", "llama.block_count": 30}, ModelFormat.GGUF).message
    assert "llama.embedding_length, llama.attention.head_count" in message


def test_nonsense_numbers_count_as_missing() -> None:
    message = refuse(
        {**QWEN_32B_CONFIG, "hidden_size": -1, "num_hidden_layers": True}, ModelFormat.SAFETENSORS
    ).message
    assert "num_hidden_layers, hidden_size" in message
