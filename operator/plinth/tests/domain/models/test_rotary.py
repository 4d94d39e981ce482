"""Tables for rotary positions: `rotary_bytes` of a config."""

import pytest

from plinth.domain.models.keys import Keys
from plinth.domain.models.rotary import rotary_bytes

GEMMA = {
    "max_position_embeddings": 131_072,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}


def table(head_dim: int = 128, **config: object) -> int:
    return rotary_bytes(Keys({"max_position_embeddings": 4096, "rope_theta": 1e4, **config}, {}), head_dim)


def test_gemma_stretches_one_table_and_has_another_for_its_sliding_layers() -> None:
    assert table(256, **GEMMA) == (8 + 1) * 131_072 * 256 * 2


@pytest.mark.parametrize(
    ("scaling", "positions"),
    [
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512}, 4096),
        ({"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096}, 163_840),
        ({"rope_type": "dynamic", "factor": 2.0}, 8192),
    ],
)
def test_each_kind_of_scaling_has_its_own_count_of_positions(
    scaling: dict[str, object], positions: int
) -> None:
    assert table(rope_scaling=scaling) == positions * 128 * 2


def test_only_the_part_that_is_rotated_counts() -> None:
    assert table(rope_parameters={"partial_rotary_factor": 0.25}) == 4096 * 32 * 2


def test_a_latent_has_its_table_at_32_bits() -> None:
    assert table(qk_rope_head_dim=64) == 4096 * 64 * 4


def test_a_model_without_rotation_has_none() -> None:
    assert rotary_bytes(Keys({"max_position_embeddings": 512}, {}), 64) == 0
    assert rotary_bytes(Keys({"rope_theta": 1e4}, {}), 64) == 0


def test_figures_made_to_do_harm_stay_within_bounds() -> None:
    assert table(rope_scaling={"type": "linear", "factor": 1e300}) == 4096 * 128 * 2
    assert table(rope_scaling={"type": "linear", "factor": -1}) == 4096 * 128 * 2
