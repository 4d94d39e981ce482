"""What tensor headers make more exact."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import prod

import pytest

from plinth.api.v1alpha1 import Task
from plinth.domain.fleet import ModelFormat
from plinth.domain.models.headers import StoredTensor
from plinth.domain.models.tensor_names import part_of
from plinth.domain.models.weights import Part
from plinth.tests.domain.builders import SMOL_METADATA
from plinth.tests.domain.models.public_models import PUBLIC_MODELS, read, read_public

SMOL = PUBLIC_MODELS["HuggingFaceTB/SmolLM2-135M"].config
UNTIED = {**SMOL, "tie_word_embeddings": False}
EMBEDDING = 49152 * 576
SHAPES = {
    "self_attn.q_proj": (576, 576),
    "self_attn.k_proj": (192, 576),
    "self_attn.v_proj": (192, 576),
    "self_attn.o_proj": (576, 576),
    "mlp.gate_proj": (1536, 576),
    "mlp.up_proj": (1536, 576),
    "mlp.down_proj": (576, 1536),
    "input_layernorm": (576,),
    "post_attention_layernorm": (576,),
}
WIDTHS = {"F32": 4, "I32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "U8": 1}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}


def stored(name: str, shape: tuple[int, ...], dtype: str = "BF16") -> StoredTensor:
    return StoredTensor(name, dtype, prod(shape), prod(shape) * WIDTHS[dtype])


def smol_tensors(dtype: str = "BF16", layers: int = 30) -> list[StoredTensor]:
    found = [
        stored(f"model.layers.{layer}.{name}.weight", shape, dtype)
        for layer in range(layers)
        for name, shape in SHAPES.items()
    ]
    found.append(stored("model.embed_tokens.weight", (49152, 576), dtype))
    return [*found, stored("model.norm.weight", (576,), dtype)]


HEAD = stored("lm_head.weight", (49152, 576))


def instead(tensors: Iterable[StoredTensor], module: str, *others: StoredTensor) -> list[StoredTensor]:
    """The tensors with those of a module replaced."""
    return [*(each for each in tensors if module not in each.name), *others]


def packed_down_projections() -> list[StoredTensor]:
    """As GPTQ packs them: eight weights of four bits in an element, and a scale for 128."""
    tensors = smol_tensors()
    for layer in range(30):
        name = f"model.layers.{layer}.mlp.down_proj"
        tensors = instead(
            tensors,
            name,
            stored(f"{name}.qweight", (1536 // 8, 576), "I32"),
            stored(f"{name}.scales", (1536 // 128, 576), "F16"),
        )
    return tensors


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.embed_tokens.weight", Part.EMBEDDING),
        ("lm_head.weight", Part.HEAD),
        ("model.layers.0.self_attn.q_proj.qweight", Part.ATTENTION),
        ("model.layers.0.self_attn.q_norm.weight", Part.VECTORS),
        ("model.layers.0.self_attn.q_proj.bias", Part.VECTORS),
        ("model.layers.0.mlp.down_proj.weight", Part.FEED_FORWARD),
        ("model.layers.0.mlp.gate.weight", Part.ROUTER),
        ("model.layers.0.mlp.gate_proj.weight", Part.FEED_FORWARD),
        ("model.layers.0.block_sparse_moe.gate.weight", Part.ROUTER),
        ("model.layers.0.mlp.router", Part.ROUTER),
        ("model.layers.0.mlp.experts.7.up_proj.weight", Part.EXPERTS),
        ("model.layers.0.mlp.shared_experts.up_proj.weight", Part.SHARED_EXPERTS),
        ("model.layers.0.linear_attn.out_proj.weight", Part.ATTENTION),
        ("model.layers.0.mamba.in_proj.weight", Part.ATTENTION),
        ("backbone.layers.0.mixer.in_proj.weight", Part.ATTENTION),
        ("backbone.layers.1.mixer.up_proj.weight", Part.FEED_FORWARD),
        ("transformer.wte.weight", Part.EMBEDDING),
        ("transformer.wpe.weight", Part.VECTORS),
        ("visual.blocks.0.attn.qkv.weight", Part.VISION),
        ("audio_tower.layers.0.self_attn.q_proj.weight", Part.VISION),
        ("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", Part.VISION),
        ("score.weight", Part.VECTORS),
        ("token_embd.weight", Part.EMBEDDING),
        ("output.weight", Part.HEAD),
        ("output_norm.weight", Part.VECTORS),
        ("blk.0.attn_q.weight", Part.ATTENTION),
        ("blk.0.ffn_down.weight", Part.FEED_FORWARD),
        ("blk.0.ffn_down_exps.weight", Part.EXPERTS),
        ("blk.0.ffn_gate_inp.weight", Part.ROUTER),
        ("blk.0.ffn_up_shexp.weight", Part.SHARED_EXPERTS),
        ("encoder.layer.0.output.dense.weight", Part.FEED_FORWARD),
        ("embeddings.word_embeddings.weight", Part.EMBEDDING),
        ("embeddings.position_embeddings.weight", Part.VECTORS),
    ],
)
def test_a_name_tells_the_part(name: str, part: Part) -> None:
    assert part_of(name) is part


def test_plain_tensors_weigh_what_the_formula_says() -> None:
    sharpened = read(SMOL, tensors=smol_tensors())
    assert sharpened.weights_bytes == read(SMOL).weights_bytes
    assert sharpened.parameters == read(SMOL).parameters == 134_515_008


@pytest.mark.parametrize("dtype", ["F32", "F8_E4M3"])
def test_weights_of_another_width_are_loaded_at_the_models_own(dtype: str) -> None:
    assert read(SMOL, tensors=smol_tensors(dtype)).weights_bytes == read(SMOL).weights_bytes


def test_what_no_config_tells_of_is_counted() -> None:
    extra = [stored(f"model.layers.{layer}.self_attn.q_proj.bias", (576,)) for layer in range(30)]
    sharpened = read(SMOL, tensors=[*smol_tensors(), *extra])
    assert sharpened.parameters - read(SMOL).parameters == 30 * 576
    assert sharpened.weights_bytes - read(SMOL).weights_bytes == 30 * 576 * 2


def test_tensors_under_strange_names_are_not_counted_twice() -> None:
    renamed = [each._replace(name=each.name.replace("mlp.", "mixer.dense.")) for each in smol_tensors()]
    sharpened = read(SMOL, tensors=renamed)
    assert sharpened.parameters == read(SMOL).parameters
    assert sharpened.weights_bytes == pytest.approx(read(SMOL).weights_bytes, rel=1e-6)


def test_a_part_that_the_config_has_no_place_for_is_held_by_each_stage() -> None:
    adapter = [stored(f"model.layers.{layer}.mlp.experts.0.weight", (100, 576)) for layer in range(30)]
    sharpened = read(SMOL, tensors=[*smol_tensors(), *adapter])
    assert sharpened.weights_bytes - read(SMOL).weights_bytes == 30 * 57_600 * 2
    by_two = {"tensor": 2, "pipeline": 1, "expert": 1}
    more = sharpened.weights_bytes_per_rank(**by_two) - read(SMOL).weights_bytes_per_rank(**by_two)
    assert more == 15 * 57_600 * 2


def test_packed_tensors_and_their_scales_weigh_what_is_stored() -> None:
    config = {**SMOL, "quantization_config": GPTQ}
    sharpened = read(config, tensors=packed_down_projections())
    saved = 30 * (1536 * 576 * 2 - 1536 * 576 // 2 - 12 * 576 * 2)
    assert sharpened.weights_bytes == read(SMOL).weights_bytes - saved
    assert sharpened.parameters == read(SMOL).parameters


def test_the_tensors_say_which_parts_are_quantised() -> None:
    config = {**SMOL, "quantization_config": GPTQ}
    whole, sharpened = read(config).quantization, read(config, tensors=packed_down_projections()).quantization
    assert whole is not None
    assert sharpened is not None
    assert {Part.ATTENTION, Part.FEED_FORWARD}.isdisjoint(whole.kept_in_full)
    assert Part.ATTENTION in sharpened.kept_in_full
    assert Part.FEED_FORWARD not in sharpened.kept_in_full


def test_layers_kept_in_full_beside_quantised_ones_are_counted_as_they_are() -> None:
    tensors = smol_tensors()
    for layer in range(1, 30):
        name = f"model.layers.{layer}.mlp.down_proj"
        tensors = instead(tensors, name, stored(f"{name}.weight", (576, 1536), "F8_E4M3"))
    sharpened = read({**SMOL, "quantization_config": FP8}, tensors=tensors)
    assert sharpened.weights_bytes == read(SMOL).weights_bytes - 29 * 576 * 1536


def test_layers_beyond_the_models_are_not_loaded() -> None:
    assert read(SMOL, tensors=smol_tensors(layers=31)).weights_bytes == read(SMOL).weights_bytes


def test_masks_and_frequencies_are_not_loaded() -> None:
    buffers = [
        stored("model.layers.0.attn.bias", (1, 1, 2048, 2048), "F32"),
        stored("model.layers.0.self_attn.rotary_emb.inv_freq", (32,), "F32"),
        stored("mtp.layers.0.mlp.down_proj.weight", (576, 1536)),
    ]
    assert read(SMOL, tensors=[*smol_tensors(), *buffers]).parameters == read(SMOL).parameters


def test_a_stored_copy_of_a_tied_embedding_is_not_loaded() -> None:
    assert read(SMOL, tensors=[*smol_tensors(), HEAD]).weights_bytes == read(SMOL).weights_bytes


def test_a_head_that_is_not_stored_is_not_there() -> None:
    assert read(UNTIED).parameters - read(UNTIED, tensors=smol_tensors()).parameters == EMBEDDING


def test_a_head_that_is_stored_is_loaded_unless_the_model_only_embeds() -> None:
    whole = read(UNTIED, tensors=[*smol_tensors(), HEAD])
    assert whole.weights_bytes == read(UNTIED).weights_bytes
    embedding = replace(whole, task=Task.EMBED)
    assert whole.weights_bytes - embedding.weights_bytes == 2 * EMBEDDING
    assert embedding.weights_bytes == read(SMOL).weights_bytes


def test_a_model_that_only_embeds_multiplies_nothing_with_the_vocabulary() -> None:
    whole = read(SMOL)
    assert whole.flops_per_token(0) - replace(whole, task=Task.EMBED).flops_per_token(0) == 2 * EMBEDDING


def test_a_rank_gets_its_share_of_what_is_stored() -> None:
    model, sharpened = read(SMOL), read(SMOL, tensors=smol_tensors())
    for tensor in (1, 3):
        one = model.weights_bytes_per_rank(tensor=tensor, pipeline=1, expert=1)
        assert sharpened.weights_bytes_per_rank(tensor=tensor, pipeline=1, expert=1) == pytest.approx(
            one, rel=0.001
        )


def test_a_tower_is_counted_by_its_tensors() -> None:
    config = PUBLIC_MODELS["google/gemma-3-4b-it"].config
    tensors = [stored("vision_tower.layers.99.patch.weight", (10, 10))]
    assert read(config, tensors=tensors).vision_parameters == 100
    assert read_public("google/gemma-3-4b-it").vision_parameters == 4_300_079_472 - 3_880_263_168


GGUF_TENSORS = [
    StoredTensor("token_embd.weight", "Q6_K", EMBEDDING, EMBEDDING // 256 * 210),
    StoredTensor("blk.0.attn_q.weight", "Q4_K", 576 * 576, 576 * 576 // 256 * 144),
    StoredTensor("blk.0.attn_norm.weight", "F32", 576, 576 * 4),
]


def test_gguf_tensors_weigh_their_blocks_and_show_whether_there_is_a_head() -> None:
    found = read(SMOL_METADATA, ModelFormat.GGUF, GGUF_TENSORS)
    assert found.tied_embeddings
    assert dict(found.stored) == {
        Part.EMBEDDING: EMBEDDING // 256 * 210,
        Part.ATTENTION: 576 * 576 // 256 * 144,
        Part.VECTORS: 576 * 4,
        Part.FEED_FORWARD: 0,
    }
    head = StoredTensor("output.weight", "Q6_K", EMBEDDING, EMBEDDING // 256 * 210)
    assert not read(SMOL_METADATA, ModelFormat.GGUF, [*GGUF_TENSORS, head]).tied_embeddings


def test_gguf_weights_converted_to_16_bits_are_counted_by_their_tensors() -> None:
    converted = replace(read(SMOL_METADATA, ModelFormat.GGUF, GGUF_TENSORS), quantization=None)
    assert converted.parameters == EMBEDDING + 576 * 576 + 576
    assert converted.weights_bytes == 2 * converted.parameters
