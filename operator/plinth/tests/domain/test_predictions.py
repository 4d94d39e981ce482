"""What the plan promises, against what was measured; the measurements stand in docs/benchmarks.md and in vLLM's tests."""

from typing import Any

import pytest

from plinth.domain.figures import Prediction
from plinth.domain.fleet import Artifact
from plinth.domain.predictions import LEAST_KV_BYTES, vllm_kv_bytes
from plinth.domain.quantities import GIB
from plinth.tests.domain.builders import make_qwen_artifact, make_smol_artifact
from plinth.tests.domain.fits import target_of


def prediction_of(artifact: Artifact, *, gpus: int = 0, **spec: Any) -> Prediction:
    found = target_of(artifact, gpus=gpus, **spec).prediction
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("tensor", "weights_gib", "kv_gib", "kv_tokens"), [(1, 59.07, 64.93, 265_952), (2, 29.73, 94.63, 775_216)]
)
def test_qwen_32b_on_h200_is_predicted_as_vllm_measured_it(
    tensor: int, weights_gib: float, kv_gib: float, kv_tokens: int
) -> None:
    memory = prediction_of(make_qwen_artifact(), gpus=2, parallelism={"tensor": tensor}).memory
    assert memory.weights_bytes == pytest.approx(weights_gib * GIB, rel=0.01)
    assert memory.kv_bytes == pytest.approx(kv_gib * GIB, rel=0.01)
    assert memory.kv_tokens == pytest.approx(kv_tokens, rel=0.01)


def test_speed_on_accelerators_is_promised_at_the_stated_concurrency_with_its_cost() -> None:
    speed = prediction_of(make_qwen_artifact(), gpus=1, pool={"costPerAcceleratorHour": "3.6"}).computed
    assert speed is not None
    assert speed.concurrency == 8
    per_million = 3.6 / 3600 / speed.tokens_per_second * 1e6
    assert float(speed.cost_per_million_tokens) == pytest.approx(per_million, abs=1e-4)


def test_llama_cpp_allocates_the_stated_context_for_each_request() -> None:
    memory = prediction_of(make_smol_artifact()).memory
    assert (memory.kv_tokens, memory.kv_bytes) == (8 * 2048, 8 * 2048 * 30 * 2 * 3 * 64 * 2)


def test_on_a_cpu_the_overhead_is_a_reserve_and_not_promised() -> None:
    assert prediction_of(make_smol_artifact()).memory.overhead_bytes is None


def test_the_speed_of_a_processor_is_promised_only_where_the_pool_states_it() -> None:
    assert prediction_of(make_smol_artifact()).computed is None
    stated = [{"name": "CPU", "memoryGigabytesPerSecond": 80, "bf16Teraflops": 2}]
    assert prediction_of(make_smol_artifact(), pool={"acceleratorTypes": stated}).computed is not None


def test_vllm_on_a_cpu_gets_what_is_left_and_never_too_little() -> None:
    assert vllm_kv_bytes(5 * GIB, GIB, 0) == 2 * GIB
    assert vllm_kv_bytes(5 * GIB, GIB, GIB) == GIB
    assert vllm_kv_bytes(GIB, GIB, 0) == LEAST_KV_BYTES


def test_what_vllm_on_a_cpu_will_allocate_is_promised_in_whole_blocks() -> None:
    memory = prediction_of(make_smol_artifact(), engine={"type": "VLLM"}).memory
    per_token = 30 * 2 * 3 * 64 * 2
    assert memory.kv_tokens % 128 == 0
    assert 0 <= memory.kv_bytes - memory.kv_tokens * per_token < 128 * per_token


def test_measured_speed_corrects_the_choice_and_not_what_was_computed() -> None:
    plain, slow = (
        target_of(
            make_qwen_artifact(),
            gpus=8,
            speed_thousandths=speed,
            objectives={"concurrency": 20, "tpotMilliseconds": 25},
        )
        for speed in (1000, 600)
    )
    assert (plain.needs.accelerators, slow.needs.accelerators) == (1, 2)
    assert plain.prediction is not None
    same = target_of(
        make_qwen_artifact(), gpus=1, speed_thousandths=600, objectives={"concurrency": 20}
    ).prediction
    assert same is not None
    assert same.computed == plain.prediction.computed
