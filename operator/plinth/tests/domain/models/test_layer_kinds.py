"""How the layers of hybrid models are told apart."""

from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.blocks import AttentionKind
from plinth.tests.domain.models.public_models import read_public


def kinds_of(model: ModelArchitecture) -> dict[AttentionKind, int]:
    counts: dict[AttentionKind, int] = {}
    for each in model.layers:
        counts[each.attention.kind] = counts.get(each.attention.kind, 0) + each.count
    return counts


def test_gemma_3_looks_at_everything_in_every_sixth_layer() -> None:
    gemma = read_public("google/gemma-3-27b-it")
    assert kinds_of(gemma) == {AttentionKind.SLIDING: 52, AttentionKind.FULL: 10}
    assert gemma.order[:7] == (0, 0, 0, 0, 0, 1, 0)
    assert gemma.layers[0].attention.window_tokens == 1024


def test_gemma_2_and_gpt_oss_take_turns() -> None:
    assert kinds_of(read_public("google/gemma-2-9b")) == {AttentionKind.SLIDING: 21, AttentionKind.FULL: 21}
    assert kinds_of(read_public("openai/gpt-oss-120b")) == {AttentionKind.SLIDING: 18, AttentionKind.FULL: 18}


def test_the_types_of_layers_count_more_than_a_pattern() -> None:
    types = ["full_attention"] * 30 + ["sliding_attention"] * 6
    gpt_oss = read_public("openai/gpt-oss-120b", layer_types=types)
    assert kinds_of(gpt_oss) == {AttentionKind.FULL: 30, AttentionKind.SLIDING: 6}


def test_mistral_7b_slides_in_every_layer_and_its_successor_in_none() -> None:
    assert kinds_of(read_public("mistralai/Mistral-7B-v0.1")) == {AttentionKind.SLIDING: 32}
    assert kinds_of(read_public("mistralai/Mistral-7B-Instruct-v0.3")) == {AttentionKind.FULL: 32}


def test_a_window_as_long_as_the_context_is_none() -> None:
    assert kinds_of(read_public("microsoft/Phi-4-mini-instruct")) == {AttentionKind.FULL: 32}


def test_qwen_2_slides_only_where_it_says_so() -> None:
    sliding = {"sliding_window": 4096, "max_window_layers": 20}
    unused = read_public("Qwen/Qwen2.5-7B", **sliding)
    used = read_public("Qwen/Qwen2.5-7B", **sliding, use_sliding_window=True)
    assert kinds_of(unused) == {AttentionKind.FULL: 28}
    assert kinds_of(used) == {AttentionKind.FULL: 20, AttentionKind.SLIDING: 8}


def test_llama_4_attends_in_chunks_but_in_every_fourth_layer() -> None:
    scout = read_public("meta-llama/Llama-4-Scout-17B-16E-Instruct")
    assert kinds_of(scout) == {AttentionKind.SLIDING: 36, AttentionKind.FULL: 12}
    assert scout.layers[0].attention.window_tokens == 8192


def test_linear_layers_keep_a_state_and_nothing_of_a_token() -> None:
    qwen = read_public("Qwen/Qwen3-Next-80B-A3B-Instruct")
    assert kinds_of(qwen) == {AttentionKind.LINEAR: 36, AttentionKind.FULL: 12}
    linear = qwen.layers[0].attention
    assert linear.kv_elements_per_token(1) == 0
    # 2 · 16 · 128 + 32 · 128 channels, 3 tokens of each; 32 heads of 128 · 128; all at 16 bits.
    assert linear.state_bytes_per_request == (8192 * 3 + 32 * 128 * 128) * 2


def test_a_state_that_the_config_keeps_at_32_bits_counts_as_that() -> None:
    wide = read_public("Qwen/Qwen3-Next-80B-A3B-Instruct", mamba_ssm_dtype="float32")
    assert wide.layers[0].attention.state_bytes_per_request == 8192 * 3 * 2 + 32 * 128 * 128 * 4


def test_jamba_mixes_mamba_attention_and_experts() -> None:
    jamba = read_public("ai21labs/Jamba-v0.1")
    assert kinds_of(jamba) == {AttentionKind.LINEAR: 28, AttentionKind.FULL: 4}
    assert sum(each.count for each in jamba.layers if each.feed_forward.experts) == 16


def test_nemotron_does_one_thing_a_layer() -> None:
    nemotron = read_public("nvidia/NVIDIA-Nemotron-Nano-9B-v2")
    assert nemotron.layer_count == 56
    assert {(each.count, each.feed_forward.width > 0) for each in nemotron.layers} == {
        (27, False),
        (25, True),
        (4, False),
    }


def test_deepseek_begins_with_dense_layers() -> None:
    deepseek = read_public("deepseek-ai/DeepSeek-V3")
    assert [(each.count, each.feed_forward.experts) for each in deepseek.layers] == [(3, 0), (58, 256)]
    assert deepseek.order == (0,) * 3 + (1,) * 58
    assert deepseek.layers[1].feed_forward.shared_width == 2048


def test_every_second_layer_of_maverick_has_experts() -> None:
    maverick = read_public("meta-llama/Llama-4-Maverick-17B-128E-Instruct")
    dense = sum(each.count for each in maverick.layers if each.feed_forward.width)
    assert (dense, maverick.layer_count, maverick.experts) == (24, 48, 128)


def test_an_encoder_keeps_nothing() -> None:
    bge = read_public("BAAI/bge-m3")
    assert kinds_of(bge) == {AttentionKind.ENCODER: 24}
    assert bge.kv_bytes_per_request_per_rank(8192, tensor=1, pipeline=1, element_bytes=2) == 0
    assert (bge.heads, bge.kv_heads) == (16, 16)
