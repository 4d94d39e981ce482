"""What the planner reads of vLLM's arguments is what the real vLLM takes: its own lists are held against ours."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plinth.domain.models.quantization import Quantization
from plinth.domain.vllm_arguments import read_options, refuse_arguments, refuse_for
from plinth.tests.domain.sizing.sizing_builders import QWEN_30B_A3B

VLLM_PYTHON = Path(__file__).parents[4] / ".venv-vllm" / "bin" / "python"
NUMBERS = ("4096", "8k", "8K", "2.5k", "1M", "many", "2.5K", "4096.0", "8kk", "1e3")
ASK = f"""
import json
from typing import get_args
from vllm.config.cache import CacheDType
from vllm.config.model import ModelDType
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
from vllm.utils.argparse_utils import human_readable_int

def read(text):
    try:
        return human_readable_int(text)
    except Exception:
        return None

print(json.dumps({{
    "kv-cache-dtype": get_args(CacheDType),
    "dtype": get_args(ModelDType),
    "quantization": QUANTIZATION_METHODS,
    "numbers": {{text: read(text) for text in {NUMBERS!r}}},
}}))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What the real vLLM says."""
    done = subprocess.run([VLLM_PYTHON, "-c", ASK], capture_output=True, text=True, timeout=120, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.vllm
def test_every_width_that_is_planned_with_is_one_of_vllm_s(told: dict[str, Any]) -> None:
    for name, least in (("dtype", 6), ("kv-cache-dtype", 6)):
        able = {each for each in told[name] if refuse_arguments({name: each}) is None}
        assert len(able) >= least
        refusal = refuse_arguments({name: "none of them"})
        assert refusal is not None
        named = refusal.partition("; ")[2].removesuffix(" can").replace(" or ", ", ").split(", ")
        assert set(named) == able


@pytest.mark.vllm
def test_every_method_that_is_planned_with_is_one_of_vllm_s(told: dict[str, Any]) -> None:
    methods = set(told["quantization"])
    made = {each for each in methods if refuse_for(QWEN_30B_A3B, {"quantization": each}) is None}
    assert {"fp8", "mxfp8", "bitsandbytes", "experts_int8"} <= made
    refusal = refuse_for(QWEN_30B_A3B, {"quantization": "awq"})
    assert refusal is not None
    named = refusal.partition("; ")[2].partition(" is made")[0].replace(" or ", ", ").split(", ")
    assert set(named) == made
    for stored in ("gptq", "awq"):
        kept = Quantization(method=stored, weight_bits_hundredths=416)
        model = replace(QWEN_30B_A3B, quantization=kept)
        able = {each for each in methods if refuse_for(model, {"quantization": each}) is None}
        assert {stored, f"auto_{stored}", f"{stored}_marlin"} <= able


@pytest.mark.vllm
def test_numbers_are_read_as_vllm_reads_them(told: dict[str, Any]) -> None:
    for text, number in told["numbers"].items():
        args = {"max-num-batched-tokens": text}
        assert read_options(args, concurrency=1, dtype_bytes=2).batched_tokens == number, text
        assert (refuse_arguments(args) is None) == (number is not None)
