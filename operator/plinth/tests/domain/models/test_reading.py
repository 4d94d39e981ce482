"""What is refused, and GGUF metadata in the place of a config.json."""

from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.fleet import ArtifactRefusal, ModelFormat
from plinth.domain.models.reading import read_model
from plinth.domain.models.weights import Part
from plinth.tests.domain.builders import SMOL_METADATA
from plinth.tests.domain.models.public_models import PUBLIC_MODELS, read, read_public, refusal_of

SMOL = PUBLIC_MODELS["HuggingFaceTB/SmolLM2-135M"].config
DEEPSEEK_METADATA = {
    "general.architecture": "deepseek2",
    "general.file_type": 15,
    "deepseek2.block_count": 27,
    "deepseek2.embedding_length": 2048,
    "deepseek2.feed_forward_length": 10944,
    "deepseek2.context_length": 163840,
    "deepseek2.vocab_size": 102400,
    "deepseek2.attention.head_count": 16,
    "deepseek2.attention.head_count_kv": 1,
    "deepseek2.attention.kv_lora_rank": 512,
    "deepseek2.attention.key_length": 576,
    "deepseek2.attention.value_length": 512,
    "deepseek2.attention.key_length_mla": 192,
    "deepseek2.attention.value_length_mla": 128,
    "deepseek2.rope.dimension_count": 64,
    "deepseek2.expert_count": 64,
    "deepseek2.expert_used_count": 6,
    "deepseek2.expert_shared_count": 2,
    "deepseek2.expert_feed_forward_length": 1408,
    "deepseek2.leading_dense_block_count": 1,
}


def test_what_a_config_lacks_is_named() -> None:
    assert refusal_of({"model_type": "llama", "hidden_size": 64}) == (
        "the model's config.json lacks num_hidden_layers, num_attention_heads, vocab_size; "
        "without it no shape can be planned"
    )


def test_numbers_of_another_type_count_as_missing() -> None:
    wrongs: tuple[object, ...] = ("30", True, 0, -1, 3.5, None, [])
    for wrong in wrongs:
        assert "lacks num_hidden_layers;" in refusal_of({**SMOL, "num_hidden_layers": wrong})


def test_a_model_that_encodes_and_decodes_is_refused() -> None:
    assert "an encoder with a decoder (t5)" in refusal_of(
        {**SMOL, "model_type": "t5", "is_encoder_decoder": True}
    )


def test_gguf_metadata_that_lacks_something_is_refused_in_its_own_words() -> None:
    metadata = {key: value for key, value in SMOL_METADATA.items() if key != "llama.block_count"}
    assert "GGUF metadata lacks llama.block_count;" in refusal_of(metadata, ModelFormat.GGUF)
    assert "lacks general.architecture" in refusal_of({}, ModelFormat.GGUF)


def test_an_unknown_family_reads_as_llama() -> None:
    assert read({**SMOL, "model_type": "brandnew"}).parameters == read(SMOL).parameters


def test_entries_that_a_family_leaves_unsaid_are_known() -> None:
    gemma = read_public("google/gemma-3-4b-it")
    assert (gemma.heads, gemma.kv_heads, gemma.vocabulary, gemma.tied_embeddings) == (8, 4, 262_208, True)


def test_gguf_metadata_reads_as_the_config_does() -> None:
    from_gguf, from_config = read(SMOL_METADATA, ModelFormat.GGUF), read(SMOL)
    assert from_gguf.layers == from_config.layers
    assert (from_gguf.hidden, from_gguf.vocabulary) == (576, 49152)


def test_a_latent_is_read_from_gguf_metadata_too() -> None:
    from_gguf = read(DEEPSEEK_METADATA, ModelFormat.GGUF)
    from_config = read_public("deepseek-ai/DeepSeek-V2-Lite")
    assert [each.attention for each in from_gguf.layers] == [each.attention for each in from_config.layers]
    assert from_gguf.order == from_config.order
    corrections = 26 * 64  # of V3's router, which GGUF does not tell from V2's
    assert from_gguf.parameters == from_config.parameters + corrections


def test_the_type_of_a_gguf_file_gives_its_bits() -> None:
    found = read({**SMOL_METADATA, "general.file_type": 15}, ModelFormat.GGUF)
    assert found.quantization is not None
    assert found.quantization.weight_bits_hundredths == 489
    assert Part.EMBEDDING not in found.quantization.kept_in_full
    assert read({**SMOL_METADATA, "general.file_type": 15_000}, ModelFormat.GGUF).quantization is None


def test_the_vocabulary_is_counted_by_its_tokens_where_no_size_is_stated() -> None:
    without = {key: value for key, value in SMOL_METADATA.items() if key != "llama.vocab_size"}
    assert read({**without, "tokenizer.ggml.tokens.length": 49152}, ModelFormat.GGUF).vocabulary == 49152
    assert read({**without, "tokenizer.ggml.tokens": ["a", "b"]}, ModelFormat.GGUF).vocabulary == 2


def test_head_counts_stated_for_each_layer_make_layers_of_their_own() -> None:
    mixed = read({**SMOL_METADATA, "llama.attention.head_count_kv": [3] * 10 + [1] * 20}, ModelFormat.GGUF)
    assert [(each.count, each.attention.kv_heads) for each in mixed.layers] == [(10, 3), (20, 1)]
    assert mixed.kv_bytes_per_token_per_rank(tensor=1, pipeline=1, element_bytes=2) == 50 * 2 * 64 * 2


def test_layers_that_predict_further_tokens_are_left_out_of_gguf_blocks() -> None:
    found = read({**SMOL_METADATA, "llama.nextn_predict_layers": 1}, ModelFormat.GGUF)
    assert found.layer_count == 29


def test_a_language_part_counts_its_own_entries() -> None:
    llava = {
        "model_type": "llava",
        "text_config": {**SMOL, "model_type": "llama"},
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "patch_size": 14,
            "image_size": 336,
        },
    }
    found = read(llava)
    assert (found.name, found.layer_count, found.hidden) == ("llava", 30, 576)
    # CLIP ViT-L/14 at 336: 303,507,456 (https://huggingface.co/openai/clip-vit-large-patch14-336).
    assert found.vision_parameters == 303_507_456 + (1024 + 1 + 576 + 1) * 576


ODD: tuple[object, ...] = (
    None,
    0,
    1,
    -1,
    10**12,
    2.5,
    True,
    False,
    "",
    "text",
    [],
    [0],
    [1, 2],
    ["a"],
    {},
    {"a": 1},
)


@given(
    name=st.sampled_from(sorted(PUBLIC_MODELS)),
    data=st.data(),
    values=st.lists(st.sampled_from(ODD), min_size=1, max_size=4),
)
def test_whatever_a_config_states_it_is_read_or_refused(
    name: str, data: st.DataObject, values: list[object]
) -> None:
    config = dict(PUBLIC_MODELS[name].config)
    for value in values:
        config[data.draw(st.sampled_from(sorted(config)))] = value
    found = read_model(config, format=ModelFormat.SAFETENSORS)
    if not isinstance(found, ArtifactRefusal):
        assert found.weights_bytes >= 0
        assert found.flops_per_token(1000) >= 0
        assert found.kv_bytes_per_request_per_rank(1000, tensor=2, pipeline=2, element_bytes=2) >= 0


def test_a_config_with_endless_layers_is_refused() -> None:
    assert "more layers than any model has" in refusal_of({**SMOL, "num_hidden_layers": 10**12})
