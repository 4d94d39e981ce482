"""How little is kept of many tensors, and that nothing of them is lost."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.models.headers import MOST_GROUPS, NO_LAYER, StoredTensor, TensorGroup, group_tensors
from plinth.domain.models.weights import Part


def experts(layers: int, count: int, dtype: str = "BF16") -> list[StoredTensor]:
    return [
        StoredTensor(f"model.layers.{layer}.mlp.experts.{expert}.up_proj.weight", dtype, 100, 200)
        for layer in range(layers)
        for expert in range(count)
    ]


def test_like_layers_that_follow_each_other_are_one_group() -> None:
    tensors = [*experts(94, 128), StoredTensor("model.embed_tokens.weight", "BF16", 7, 14)]
    assert group_tensors(tensors) == (
        TensorGroup(Part.EMBEDDING, "BF16", False, NO_LAYER, 1, 7, 14),  # noqa: FBT003
        TensorGroup(Part.EXPERTS, "BF16", False, 0, 94, 12_800, 25_600),  # noqa: FBT003
    )


def test_a_layer_unlike_its_neighbours_stands_alone() -> None:
    odd = StoredTensor("model.layers.2.mlp.experts.9.up_proj.weight", "BF16", 1, 2)
    groups = group_tensors([*experts(5, 1), odd])
    assert [(each.first_layer, each.layers, each.elements) for each in groups] == [
        (0, 2, 100),
        (2, 1, 101),
        (3, 2, 100),
    ]


def test_a_towers_layers_are_not_the_models() -> None:
    (group,) = group_tensors([StoredTensor("visual.blocks.31.attn.qkv.weight", "BF16", 5, 10)])
    assert (group.part, group.first_layer) == (Part.VISION, NO_LAYER)


def test_scales_stand_apart_from_weights() -> None:
    names = ("qweight", "scales", "qzeros", "g_idx", "weight_scale_inv")
    tensors = [StoredTensor(f"model.layers.0.mlp.up_proj.{name}", "I32", 1, 4) for name in names]
    assert [(each.is_scale, each.elements) for each in group_tensors(tensors)] == [(False, 1), (True, 4)]


def test_tensors_made_to_do_harm_are_refused() -> None:
    strange = (
        StoredTensor(f"model.layers.{2 * layer}.mlp.up_proj.weight", "BF16", 1, 2)
        for layer in range(MOST_GROUPS + 1)
    )
    with pytest.raises(ValueError, match="differ more than those of any model"):
        group_tensors(strange)
    endless = (StoredTensor("w", f"T{number}", 1, 2) for number in range(10**9))
    with pytest.raises(ValueError, match="differ more than those of any model"):
        group_tensors(endless)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["layers.{}.mlp.up_proj", "layers.{}.self_attn.o_proj", "embed_tokens"]),
            st.integers(0, 6),
            st.sampled_from(["BF16", "I32"]),
            st.integers(0, 3),
        ),
        max_size=40,
    )
)
def test_no_element_is_lost(drawn: list[tuple[str, int, str, int]]) -> None:
    tensors = [
        StoredTensor(name.format(layer), dtype, count, 2 * count) for name, layer, dtype, count in drawn
    ]
    given_elements: Counter[str] = Counter()
    for each in tensors:
        given_elements[each.dtype] += each.elements
    kept: Counter[str] = Counter()
    for group in group_tensors(tensors):
        kept[group.dtype] += group.layers * group.elements
        assert group.layers * group.stored_bytes == 2 * group.layers * group.elements
    assert kept == given_elements
