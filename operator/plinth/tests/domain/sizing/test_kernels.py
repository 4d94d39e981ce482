"""Kinds of accelerator that vLLM runs a model on not at all, whatever the shape."""

import pytest

from plinth.domain.sizing.choice import ShapeChoice, SizingRefusal, choose
from plinth.tests.domain.models.public_models import read_public
from plinth.tests.domain.sizing.sizing_builders import ask


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openai/gpt-oss-20b", "kernels for mxfp4 weights from compute capability 8.0 on, T4 has 7.5"),
        ("google/gemma-3-1b-it", "T4 has no bfloat16, and gemma3_text is not stable in float16"),
    ],
)
def test_a_kind_without_the_kernels_is_refused_whatever_its_number(name: str, said: str) -> None:
    found = choose(ask(read_public(name), gpu="T4", users=1, nodes=8))
    assert isinstance(found, SizingRefusal)
    assert said in found.message


@pytest.mark.parametrize("gpu", ["L4", "A100", "MI300X"])
@pytest.mark.parametrize("name", ["openai/gpt-oss-20b", "google/gemma-3-1b-it"])
def test_newer_kinds_and_those_of_other_makers_are_not(name: str, gpu: str) -> None:
    assert isinstance(choose(ask(read_public(name), gpu=gpu, users=1)), ShapeChoice)
