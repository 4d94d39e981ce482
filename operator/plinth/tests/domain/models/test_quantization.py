"""How quantised checkpoints are read, and what they weigh."""

import pytest

from plinth.domain.models.quantization import Quantization
from plinth.domain.models.weights import Part
from plinth.tests.domain.models.public_models import PUBLIC_MODELS, read_public, refusal_of

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "lm_head": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}


def quantised(**config: object) -> Quantization:
    found = read_public("Qwen/Qwen2.5-7B", quantization_config=config).quantization
    assert found is not None
    return found


def packed(**weights: object) -> dict[str, object]:
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }


@pytest.mark.parametrize(
    ("config", "hundredths", "group"),
    [
        (GPTQ, 416, 128),
        ({**GPTQ, "bits": 8, "group_size": -1}, 800, 0),
        (AWQ, 416, 128),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, 800, 0),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 800, 128),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 800, 0),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 450, 64),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
            413,
            64,
        ),
        ({"quant_method": "mxfp4"}, 425, 32),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 450, 16),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, 800, 0),
        ({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}, 450, 16),
        (packed(num_bits=4, type="int", strategy="group", group_size=128, symmetric=True), 412, 128),
        (packed(num_bits=4, type="int", strategy="group", group_size=128, symmetric=False), 416, 128),
        (packed(num_bits=8, type="int", strategy="channel", group_size=None, symmetric=True), 800, 0),
        (packed(num_bits=8, type="float", strategy="channel", symmetric=True), 800, 0),
        (packed(num_bits=4, type="float", strategy="tensor_group", group_size=16, symmetric=True), 450, 16),
    ],
)
def test_each_method_says_its_bits_in_its_own_words(
    config: dict[str, object], hundredths: int, group: int
) -> None:
    found = quantised(**config)
    assert (found.weight_bits_hundredths, found.group_size) == (hundredths, group)
    assert {Part.EMBEDDING, Part.HEAD, Part.VECTORS} <= found.kept_in_full


@pytest.mark.parametrize(
    ("name", "config", "published"),
    [
        # `total_size` of model.safetensors.index.json, https://huggingface.co/Qwen/Qwen2.5-7B-Instruct-AWQ
        ("Qwen/Qwen2.5-7B", AWQ, 5_570_000_000),
        # https://huggingface.co/openai/gpt-oss-20b: 13.76 GB in three files
        (
            "openai/gpt-oss-20b",
            PUBLIC_MODELS["openai/gpt-oss-20b"].config["quantization_config"],
            13_761_264_768,
        ),
        # https://huggingface.co/openai/gpt-oss-120b: 65.25 GB
        (
            "openai/gpt-oss-120b",
            PUBLIC_MODELS["openai/gpt-oss-120b"].config["quantization_config"],
            65_248_815_744,
        ),
    ],
)
def test_the_bytes_are_those_of_the_published_files(
    name: str, config: dict[str, object], published: int
) -> None:
    assert read_public(name, quantization_config=config).weights_bytes == pytest.approx(published, rel=0.005)


def test_fp8_halves_all_but_the_vocabulary() -> None:
    full = read_public("meta-llama/Llama-3.1-8B")
    half = read_public(
        "meta-llama/Llama-3.1-8B", quantization_config={"quant_method": "fp8", "ignored_layers": ["lm_head"]}
    )
    vocabulary, norms = 2 * 128256 * 4096, 65 * 4096
    assert half.weights_bytes == full.weights_bytes // 2 + vocabulary + norms


def test_modules_left_alone_are_kept_in_full() -> None:
    gpt_oss = read_public("openai/gpt-oss-20b").quantization
    assert gpt_oss is not None
    assert {Part.ATTENTION, Part.ROUTER, Part.EMBEDDING, Part.HEAD} <= gpt_oss.kept_in_full
    assert Part.EXPERTS not in gpt_oss.kept_in_full
    each = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(28)]
    assert Part.ATTENTION in quantised(quant_method="fp8", modules_to_not_convert=each).kept_in_full
    by_pattern = quantised(**{**packed(num_bits=8), "ignore": ["re:.*self_attn.*", "re:.*lm_head"]})
    assert Part.ATTENTION in by_pattern.kept_in_full


def test_a_module_left_alone_in_few_layers_changes_nothing() -> None:
    some = quantised(quant_method="fp8", modules_to_not_convert=["model.layers.0.mlp.down_proj"])
    assert Part.FEED_FORWARD not in some.kept_in_full


def test_a_latent_up_projection_is_kept_twice_where_it_is_quantised() -> None:
    deepseek = read_public("deepseek-ai/DeepSeek-V3")
    experts = 58 * 256 * 3 * 7168 * 2048
    copies = 61 * 512 * 128 * (128 + 128) * 2
    assert deepseek.weights_bytes > experts + copies
    without = read_public("deepseek-ai/DeepSeek-V3", quantization_config=None)
    attention = 61 * (7168 * (1536 + 512 + 64) + 1536 * 128 * 192 + 512 * 128 * 256 + 128 * 128 * 7168)
    dense = 3 * 3 * 7168 * 18432 + 58 * 3 * 7168 * 2048
    assert without.weights_bytes - deepseek.weights_bytes == experts + attention + dense - copies


def test_a_method_without_known_bits_is_refused_by_name() -> None:
    config = {**PUBLIC_MODELS["Qwen/Qwen2.5-7B"].config, "quantization_config": {"quant_method": "vptq"}}
    assert refusal_of(config) == "the model's quantization_config states no bits for the method vptq"
