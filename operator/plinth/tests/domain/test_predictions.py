"""What the plan promises, against what was measured; the measurements stand in docs/benchmarks.md and in vLLM's tests."""

import pytest

from plinth.domain.architecture import Architecture, read_architecture
from plinth.domain.figures import Prediction
from plinth.domain.fleet import Artifact, Engine
from plinth.domain.pools import resolve_pools
from plinth.domain.predictions import LEAST_KV_BYTES, predict, vllm_kv_bytes
from plinth.domain.quantities import GIB
from plinth.domain.shapes import ShapeDecision, ShapeRequest, choose_shape
from plinth.tests.domain.builders import make_node, make_pool, make_qwen_artifact, make_smol_artifact


def prediction_of(
    artifact: Artifact, engine: Engine, *, tensor: int | None = None, gpus: int = 0
) -> Prediction:
    architecture = read_architecture(artifact)
    assert isinstance(architecture, Architecture)
    (pool,) = resolve_pools((make_pool("p"),), (make_node(accelerators=gpus),))
    request = ShapeRequest(
        architecture=architecture,
        weights_bytes=artifact.weights_bytes,
        engine=engine,
        pool=pool,
        context_tokens=2048,
        concurrency=8,
        tensor=tensor,
    )
    shape = choose_shape(request)
    assert isinstance(shape, ShapeDecision)
    return predict(request, shape)


@pytest.mark.parametrize(
    ("tensor", "weights_gib", "kv_gib", "kv_tokens"), [(1, 59.07, 64.93, 265_952), (2, 29.73, 94.63, 775_216)]
)
def test_qwen_32b_on_h200_is_predicted_as_vllm_measured_it(
    tensor: int, weights_gib: float, kv_gib: float, kv_tokens: int
) -> None:
    memory = prediction_of(make_qwen_artifact(), Engine.VLLM, tensor=tensor, gpus=2).memory
    assert memory.weights_bytes == pytest.approx(weights_gib * GIB, rel=0.01)
    assert memory.kv_bytes == pytest.approx(kv_gib * GIB, rel=0.01)
    assert memory.kv_tokens == pytest.approx(kv_tokens, rel=0.01)


def test_llama_cpp_allocates_the_stated_context_for_each_request() -> None:
    memory = prediction_of(make_smol_artifact(), Engine.LLAMA_CPP).memory
    assert (memory.kv_tokens, memory.kv_bytes) == (8 * 2048, 8 * 2048 * 30 * 2 * 3 * 64 * 2)


def test_on_a_cpu_the_overhead_is_a_reserve_and_not_promised() -> None:
    assert prediction_of(make_smol_artifact(), Engine.LLAMA_CPP).memory.overhead_bytes is None


def test_vllm_on_a_cpu_gets_what_is_left_and_never_too_little() -> None:
    assert vllm_kv_bytes(5 * GIB, GIB) == 2 * GIB
    assert vllm_kv_bytes(GIB, GIB) == LEAST_KV_BYTES
