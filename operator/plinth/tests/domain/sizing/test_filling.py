"""Experts in MXFP4 take more memory than they have weights."""

from dataclasses import replace

import pytest

from plinth.domain.models.quantization import Quantization
from plinth.domain.quantities import GIB
from plinth.domain.sizing.filling import filling_bytes
from plinth.domain.sizing.shape import Shape
from plinth.tests.domain.models.public_models import read_public
from plinth.tests.domain.sizing.sizing_builders import QWEN_7B, QWEN_30B_A3B, known

GPT_OSS = read_public("openai/gpt-oss-120b")
"""128 experts in each of 36 layers, of three matrices of 2880 by 2880."""


@pytest.mark.parametrize(
    ("kind", "shape", "elements"),
    [
        # Triton: 5760 · 3072 + 2880 · 3072, of 3 · 2880 · 2880.
        ("H100", Shape(), 5760 * 3072 + 2880 * 3072 - 3 * 2880**2),
        # Marlin: 2 · 2944 · 3072 + 3072 · 2944.
        ("A100-80GB", Shape(), 3 * 2944 * 3072 - 3 * 2880**2),
        ("B200", Shape(), 3 * 3072 * 3072 - 3 * 2880**2),
        ("MI300X", Shape(), 3 * 3072 * 3072 - 3 * 2880**2),
        # A fourth of 90 blocks of 32 is 23 of them, 736; to multiples of 128 that is 768.
        ("A100-80GB", Shape(tensor=4), 3 * 768 * 3072 - 3 * 720 * 2880),
    ],
)
def test_each_rank_fills_its_share_up_to_the_tiles_of_the_kernel(
    kind: str, shape: Shape, elements: int
) -> None:
    experts = 36 * 128
    assert filling_bytes(GPT_OSS, shape, known(kind)) == experts * elements * 425 // 800


def test_whole_experts_on_other_ranks_are_filled_up_there() -> None:
    whole = filling_bytes(GPT_OSS, Shape(), known("H100"))
    assert filling_bytes(GPT_OSS, Shape(tensor=4, expert=4), known("H100")) == whole // 4


def test_on_an_h100_it_is_the_three_and_a_half_gibibytes_that_were_seen() -> None:
    assert filling_bytes(GPT_OSS, Shape(), known("H100")) == pytest.approx(3.6 * GIB, rel=0.06)


def test_weights_of_other_kinds_fill_nothing_up() -> None:
    assert filling_bytes(QWEN_30B_A3B, Shape(tensor=2), known("H100")) == 0


def test_on_hopper_the_zero_points_of_awq_take_16_bits() -> None:
    awq = replace(
        QWEN_7B, quantization=Quantization(method="awq", weight_bits_hundredths=416, group_size=128)
    )
    layer = 3584 * (3584 + 2 * 512) + 3584 * 3584 + 3 * 3584 * 18944
    assert filling_bytes(awq, Shape(), known("H200")) == 28 * layer // 128 * 12 // 8
    assert filling_bytes(awq, Shape(), known("A100-80GB")) == 0
