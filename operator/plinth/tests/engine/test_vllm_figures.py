"""Workers of vLLM as far as their figures go; the real ones tell theirs in test_vllm.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from plinth.engine.vllm_figures import note_weights, put_together, tell_figures

GIB = 1 << 30


class Model:
    """Its parameters go when they are packed for a CPU."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes

    def parameters(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(nbytes=size) for size in self.sizes]


def worker(model: Model, *kv: int, runner: dict[str, Any] | None = None, **known: int) -> SimpleNamespace:
    cache = SimpleNamespace(kv_cache_tensors=[SimpleNamespace(size=size) for size in kv])
    parts = {"get_model": lambda: model, "kv_cache_config": cache} | (runner or {})
    return SimpleNamespace(model_runner=SimpleNamespace(**parts), **known)


def gpu_worker(*, weights: int, kv: int, graphs: int = GIB // 2) -> SimpleNamespace:
    return worker(
        Model(1),
        kv,
        runner={"model_memory_usage": weights},
        cudagraph_memory_estimate=graphs,
        peak_activation_memory=GIB,
        non_torch_memory=GIB // 4,
    )


def test_on_an_accelerator_the_fullest_rank_speaks_for_the_replica() -> None:
    told = [
        tell_figures(gpu_worker(weights=30 * GIB, kv=94 * GIB)),
        tell_figures(gpu_worker(weights=29 * GIB, kv=95 * GIB)),
    ]
    figures = put_together(told, kv_tokens=775_216)
    assert figures is not None
    memory = figures.memory
    assert (memory.weights_bytes, memory.kv_bytes, memory.kv_tokens) == (30 * GIB, 95 * GIB, 775_216)
    assert memory.overhead_bytes == GIB + GIB // 4 + GIB // 2
    assert figures.graph_bytes == GIB // 2


def test_without_graphs_none_are_told_and_the_rest_is() -> None:
    figures = put_together([tell_figures(gpu_worker(weights=1, kv=1, graphs=0))], kv_tokens=1)
    assert figures is not None
    assert figures.graph_bytes is None
    assert figures.memory.overhead_bytes == GIB + GIB // 4


def test_on_a_cpu_weights_are_those_that_were_loaded_before_they_were_packed() -> None:
    model = Model(200, 69)
    note_weights(model)
    model.sizes = (69,)
    figures = put_together([tell_figures(worker(model, 10, 20))], kv_tokens=7)
    assert figures is not None
    assert (figures.memory.weights_bytes, figures.memory.kv_bytes) == (269, 30)
    assert figures.memory.overhead_bytes is None


def test_workers_that_know_no_weights_give_no_figures() -> None:
    assert put_together([tell_figures(worker(Model(1)))], kv_tokens=0) is None
