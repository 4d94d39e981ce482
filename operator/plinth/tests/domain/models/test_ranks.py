"""What each rank of a split model holds, keeps and computes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.models.blocks import Attention, AttentionKind, FeedForward, Layers
from plinth.domain.models.stages import make_stages
from plinth.domain.quantities import GIB
from plinth.tests.domain.models.public_models import PUBLIC_MODELS, read_public

QWEN_32B_MEASURED = {"vocab_size": 49152}
"""The shape that was measured on H200 (tests/domain/test_shapes.py): Qwen2.5-32B with SmolLM2's vocabulary."""


def make_model(**changes: object) -> ModelArchitecture:
    """Small enough to count by hand: 4 layers of 8 heads and 2 KV heads of 16, 256 wide."""
    attention = Attention(kind=AttentionKind.FULL, heads=8, kv_heads=2, head_dim=16, value_dim=16)
    layers = (Layers(count=4, attention=attention, feed_forward=FeedForward(width=256), norms=256),)
    values: dict[str, object] = {
        "name": "tiny",
        "layers": layers,
        "hidden": 128,
        "vocabulary": 1000,
        "tied_embeddings": False,
        "max_context_tokens": 2048,
        **changes,
    }
    return ModelArchitecture(**values)  # type: ignore[arg-type]


def rank(model: ModelArchitecture, *, tensor: int = 1, pipeline: int = 1, expert: int = 1) -> int:
    return model.weights_bytes_per_rank(tensor=tensor, pipeline=pipeline, expert=expert)


def kv(model: ModelArchitecture, tensor: int = 1, pipeline: int = 1) -> int:
    return model.kv_bytes_per_token_per_rank(tensor=tensor, pipeline=pipeline, element_bytes=2)


@pytest.mark.parametrize(("tensor", "measured"), [(1, 59.07), (2, 29.73)])
def test_the_weights_of_a_rank_are_those_that_vllm_measured_on_h200(tensor: int, measured: float) -> None:
    predicted = rank(read_public("Qwen/Qwen2.5-32B", **QWEN_32B_MEASURED), tensor=tensor) / GIB
    assert predicted == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize(("tensor", "measured_gib", "tokens"), [(1, 64.93, 265_952), (2, 94.63, 775_216)])
def test_the_kv_cache_of_a_rank_holds_the_tokens_that_vllm_measured(
    tensor: int, measured_gib: float, tokens: int
) -> None:
    a_token = kv(read_public("Qwen/Qwen2.5-32B"), tensor=tensor)
    assert measured_gib * GIB / a_token == pytest.approx(tokens, rel=0.001)


def test_matrices_are_split_and_norms_are_not() -> None:
    attention = 128 * 128 * 2 + 128 * 64
    layer = attention + 3 * 128 * 256
    vocabulary = 2 * 1024 * 128  # 1000 padded to 1024
    assert rank(make_model()) == 2 * (4 * (layer + 256) + vocabulary)
    assert rank(make_model(), tensor=2) == 2 * (4 * (layer // 2 + 256) + vocabulary // 2)


def test_keys_and_values_are_split_down_to_one_kv_head_and_then_copied() -> None:
    model = make_model()
    kv_weights = 128 * 64
    others = rank(model, tensor=4) // 2 - 4 * kv_weights // 2
    assert others * 2 + 2 * 4 * kv_weights // 2 == rank(model, tensor=4)
    assert [kv(model, tensor=each) for each in (1, 2, 4, 8)] == [512, 256, 256, 256]


def test_a_latent_is_kept_whole_by_every_rank() -> None:
    deepseek = read_public("deepseek-ai/DeepSeek-V2-Lite")
    assert kv(deepseek) == kv(deepseek, tensor=8) == 27 * (512 + 64) * 2
    assert deepseek.kv_heads == 1


def test_a_sparse_indexer_keeps_a_key_of_its_own() -> None:
    v3, v32 = read_public("deepseek-ai/DeepSeek-V3"), read_public("deepseek-ai/DeepSeek-V3.2-Exp")
    assert kv(v32) - kv(v3) == 61 * (128 + 4)


def test_half_as_wide_a_cache_is_half_as_large() -> None:
    llama = read_public("meta-llama/Llama-3.1-8B")
    wide, narrow = (
        llama.kv_bytes_per_token_per_rank(tensor=1, pipeline=1, element_bytes=each) for each in (2, 1)
    )
    assert wide == 2 * narrow == 131_072


def test_a_window_ends_the_growth_of_its_layers() -> None:
    gemma = read_public("google/gemma-3-27b-it")
    layer = 2 * 16 * 128 * 2

    def request(tokens: int, *, step_tokens: int = 0) -> int:
        return gemma.kv_bytes_per_request_per_rank(
            tokens, tensor=1, pipeline=1, element_bytes=2, step_tokens=step_tokens
        )

    assert request(512) == 62 * 512 * layer
    assert request(32_768) == (10 * 32_768 + 52 * 1024) * layer
    assert request(32_768, step_tokens=8192) == (10 * 32_768 + 52 * (1023 + 8192)) * layer
    assert request(4096, step_tokens=8192) == 62 * 4096 * layer


def test_a_state_is_kept_once_a_request_and_split() -> None:
    qwen = read_public("Qwen/Qwen3-Next-80B-A3B-Instruct")
    state = qwen.layers[0].attention.state_bytes_per_request
    short = qwen.kv_bytes_per_request_per_rank(0, tensor=1, pipeline=1, element_bytes=2)
    split = qwen.kv_bytes_per_request_per_rank(0, tensor=2, pipeline=1, element_bytes=2)
    assert (short, split) == (36 * state, 18 * state)


def test_layers_are_dealt_out_as_vllm_does() -> None:
    sizes = [sum(stage.layers.values()) for stage in make_stages((0,) * 61, 4)]
    assert sizes == [15, 15, 16, 15]
    assert [sum(stage.layers.values()) for stage in make_stages((0,) * 10, 4)] == [2, 3, 3, 2]


def test_the_first_stage_holds_the_embedding_and_the_last_one_the_head() -> None:
    model = make_model()
    layer = 2 * (128 * 128 * 2 + 128 * 64 + 3 * 128 * 256 + 256)
    assert rank(model, pipeline=2) == 2 * layer + 2 * 1024 * 128
    tied = make_model(tied_embeddings=True)
    assert rank(tied, pipeline=2) == rank(model, pipeline=2)
    assert rank(tied) == rank(model) - 2 * 1024 * 128


def test_the_stage_with_most_full_layers_binds_the_cache() -> None:
    gemma = read_public("google/gemma-3-27b-it")
    layer = 2 * 16 * 128 * 2
    assert kv(gemma, pipeline=2) == 5 * layer
    assert kv(read_public("ai21labs/Jamba-v0.1"), pipeline=4) == 2 * 8 * 128 * 2


def test_experts_are_split_by_tensor_or_laid_whole_on_expert_ranks() -> None:
    qwen = read_public("Qwen/Qwen3-30B-A3B")
    experts = 48 * 128 * 3 * 2048 * 768 * 2
    without = rank(qwen) - experts
    assert rank(qwen, tensor=4) == pytest.approx(without / 4 + experts / 4, rel=0.01)
    assert rank(qwen, tensor=4, expert=4) == rank(qwen, tensor=4)
    assert rank(qwen, tensor=1, expert=4) == without + experts // 4
    # 128 experts on 6 ranks are 22 on the fullest.
    assert rank(qwen, tensor=1, expert=6) == without + experts * 22 // 128


def test_the_router_and_a_latents_down_projections_lie_on_every_rank() -> None:
    deepseek = read_public("deepseek-ai/DeepSeek-V2-Lite")
    whole = 27 * 2048 * (512 + 64) + 26 * 2048 * 64 + 27 * (2 * 2048 + 512) + 2048
    split = rank(deepseek) - 2 * whole
    assert rank(deepseek, tensor=4) == split // 4 + 2 * whole


def test_operations_are_two_a_weight_and_two_a_product_of_attention() -> None:
    llama = read_public("meta-llama/Llama-3.1-8B")
    weights = 2 * (llama.parameters - 128256 * 4096)
    assert llama.flops_per_token(0) == weights
    assert llama.flops_per_token(1000) - weights == 32 * 2 * 32 * (128 + 128) * 1000


def test_a_window_bounds_the_operations_too() -> None:
    mistral = read_public("mistralai/Mistral-7B-v0.1")
    assert mistral.flops_per_token(4096) == mistral.flops_per_token(32_768)


def test_heads_that_tensor_parallelism_has_to_divide() -> None:
    assert read_public("Qwen/Qwen2.5-7B").heads == 28
    assert read_public("Qwen/Qwen3-Next-80B-A3B-Instruct").heads == 16
    assert read_public("Qwen/Qwen3-Next-80B-A3B-Instruct").kv_heads == 2


@given(
    name=st.sampled_from(sorted(PUBLIC_MODELS)),
    tensor=st.sampled_from([1, 2, 4, 8]),
    pipeline=st.integers(1, 4),
    expert=st.sampled_from([1, 2, 8]),
)
def test_ranks_together_hold_the_model_and_none_holds_more_than_it(
    name: str, tensor: int, pipeline: int, expert: int
) -> None:
    model = read_public(name)
    one = rank(model, tensor=tensor, pipeline=pipeline, expert=expert)
    assert one <= model.weights_bytes
    assert one * tensor * pipeline * expert >= model.weights_bytes * 99 // 100
