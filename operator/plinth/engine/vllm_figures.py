"""What vLLM's workers know of their memory, told worker by worker and put together for the replica. As of vLLM 0.25.1.

`plinth.engine.vllm_core` makes `tell_figures` a method of every worker, which `AsyncLLM.collective_rpc` calls by name.
Nothing of vLLM is imported here: what is read are attributes that its workers have by then.

On an accelerator a worker notes weights, activations, what libraries hold and its estimate for CUDA graphs before it
gives the rest to KV (`Worker.determine_available_memory` in vllm/v1/worker/gpu_worker.py). On a CPU it notes none of
these, and packs the weights away (`dispatch_cpu_unquantized_gemm`), so they are counted before that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from plinth.domain.figures import EngineFigures, MemoryFigures

TELL = "tell_figures"
"""The method that workers are given."""
_NOTED = "plinth_weights_bytes"


class WorkerFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What `tell_figures` tells, in bytes; None where the worker does not know."""

    weights: int | None
    kv: int
    graphs: int | None
    activations: int | None
    libraries: int | None


def note_weights(model: Any) -> None:
    """Count a model's weights as they are loaded, before they are packed for this machine."""
    setattr(model, _NOTED, sum(each.nbytes for each in model.parameters()))


def tell_figures(worker: Any) -> dict[str, int | None]:
    """One worker's figures as plain values, which is what goes over vLLM's wire."""
    runner = worker.model_runner
    cache = getattr(runner, "kv_cache_config", None)
    weights = _known(runner, "model_memory_usage")
    return {
        "weights": _known(runner.get_model(), _NOTED) if weights is None else weights,
        "kv": sum(tensor.size for tensor in cache.kv_cache_tensors) if cache else 0,
        "graphs": _known(worker, "cudagraph_memory_estimate"),
        "activations": _known(worker, "peak_activation_memory"),
        "libraries": _known(worker, "non_torch_memory"),
    }


def _known(thing: Any, name: str) -> int | None:
    found = getattr(thing, name, None)
    return None if found is None else int(found)


def put_together(told: Iterable[Any], kv_tokens: int) -> EngineFigures | None:
    """The fullest of all ranks, which decides whether a replica fits; None where no rank knows its weights."""
    workers = msgspec.convert(list(told), type=list[WorkerFigures])
    weights = [each.weights for each in workers if each.weights is not None]
    if not weights:
        return None
    memory = MemoryFigures(
        weights_bytes=max(weights),
        kv_bytes=max(each.kv for each in workers),
        kv_tokens=kv_tokens,
        overhead_bytes=max(filter(None, map(_overhead, workers)), default=None),
    )
    return EngineFigures(
        memory=memory, graph_bytes=max(filter(None, (w.graphs for w in workers)), default=None)
    )


def _overhead(worker: WorkerFigures) -> int | None:
    if worker.activations is None or worker.libraries is None:
        return None
    return worker.activations + worker.libraries + (worker.graphs or 0)
