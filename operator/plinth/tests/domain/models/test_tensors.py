"""What tensor headers make more exact."""

import pytest

from plinth.domain.fleet import ModelFormat
from plinth.domain.models.tensor_names import part_of
from plinth.domain.models.tensors import TensorInfo
from plinth.domain.models.weights import Part
from plinth.tests.domain.builders import SMOL_METADATA
from plinth.tests.domain.models.public_models import PUBLIC_MODELS, read, read_public

SMOL = PUBLIC_MODELS["HuggingFaceTB/SmolLM2-135M"].config
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


def smol_tensors(dtype: str = "BF16", layers: int = 30) -> dict[str, TensorInfo]:
    found = {
        f"model.layers.{layer}.{name}.weight": TensorInfo(dtype, shape)
        for layer in range(layers)
        for name, shape in SHAPES.items()
    }
    found["model.embed_tokens.weight"] = TensorInfo(dtype, (49152, 576))
    found["model.norm.weight"] = TensorInfo(dtype, (576,))
    return found


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
        ("visual.blocks.0.attn.qkv.weight", Part.VISION),
        ("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", Part.VISION),
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
    assert read(SMOL, tensors=smol_tensors()).weights_bytes == read(SMOL).weights_bytes


def test_weights_at_32_bits_are_loaded_at_the_models_width() -> None:
    assert read(SMOL, tensors=smol_tensors("F32")).weights_bytes == read(SMOL).weights_bytes


def test_packed_tensors_and_their_scales_weigh_what_is_stored() -> None:
    tensors = smol_tensors()
    for layer in range(30):
        name = f"model.layers.{layer}.mlp.down_proj"
        del tensors[f"{name}.weight"]
        tensors[f"{name}.qweight"] = TensorInfo("I32", (1536 // 8, 576))
        tensors[f"{name}.scales"] = TensorInfo("F16", (1536 // 128, 576))
    saved = 30 * (1536 * 576 * 2 - 1536 * 576 // 2 - 12 * 576 * 2)
    assert read(SMOL, tensors=tensors).weights_bytes == read(SMOL).weights_bytes - saved


def test_layers_beyond_the_models_are_not_loaded() -> None:
    assert read(SMOL, tensors=smol_tensors(layers=31)).weights_bytes == read(SMOL).weights_bytes


def test_a_stored_copy_of_a_tied_embedding_is_not_loaded() -> None:
    tensors = {**smol_tensors(), "lm_head.weight": TensorInfo("BF16", (49152, 576))}
    assert read(SMOL, tensors=tensors).weights_bytes == read(SMOL).weights_bytes


def test_a_head_that_is_not_stored_is_not_there() -> None:
    untied = {**SMOL, "tie_word_embeddings": False}
    assert read(untied).parameters - read(untied, tensors=smol_tensors()).parameters == 49152 * 576


def test_a_rank_gets_its_share_of_what_is_stored() -> None:
    model, sharpened = read(SMOL), read(SMOL, tensors=smol_tensors())
    for tensor in (1, 3):
        one = model.weights_bytes_per_rank(tensor=tensor, pipeline=1, expert=1)
        assert sharpened.weights_bytes_per_rank(tensor=tensor, pipeline=1, expert=1) == pytest.approx(
            one, rel=0.001
        )


def test_a_tower_is_counted_by_its_tensors() -> None:
    config = PUBLIC_MODELS["google/gemma-3-4b-it"].config
    tensors = {"vision_tower.patch.weight": TensorInfo("BF16", (10, 10))}
    assert read(config, tensors=tensors).vision_parameters == 100
    assert read_public("google/gemma-3-4b-it").vision_parameters == 4_300_079_472 - 3_880_263_168


def test_gguf_tensors_weigh_their_blocks_and_show_whether_there_is_a_head() -> None:
    tensors = {
        "token_embd.weight": TensorInfo("Q6_K", (576, 49152)),
        "blk.0.attn_q.weight": TensorInfo("Q4_K", (576, 576)),
        "blk.0.attn_norm.weight": TensorInfo("F32", (576,)),
    }
    found = read(SMOL_METADATA, ModelFormat.GGUF, tensors)
    assert found.tied_embeddings
    assert dict(found.stored) == {
        Part.EMBEDDING: 576 * 49152 // 256 * 210,
        Part.ATTENTION: 576 * 576 // 256 * 144,
        Part.VECTORS: 576 * 4,
    }
