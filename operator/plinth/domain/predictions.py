"""The figures that a chosen shape promises of one replica: what the engine will say of itself, if the plan is right.

On accelerators an engine takes for KV whatever weights and overhead leave. On a CPU llama.cpp allocates KV for the
stated context and concurrency; vLLM is told a number, see `vllm_kv_bytes`.
"""

from __future__ import annotations

from plinth.domain.figures import MemoryFigures, Prediction
from plinth.domain.fleet import Engine
from plinth.domain.quantities import MIB
from plinth.domain.shapes import CPU_OVERHEAD_BYTES, ShapeDecision, ShapeRequest

LEAST_KV_BYTES = 256 * MIB
"""vLLM on a CPU never gets less: where it could not hold one request of the whole context, it would not start."""


def predict(request: ShapeRequest, shape: ShapeDecision) -> Prediction:
    """What one replica of this shape should measure. No overhead on a CPU: there the plan's is a reserve."""
    needed, model = shape.footprint, request.architecture
    on_cpu = request.pool.is_cpu
    if on_cpu and request.engine is Engine.LLAMA_CPP:
        kv_bytes = needed.kv_bytes
    elif on_cpu:
        kv_bytes = vllm_kv_bytes(shape.memory_bytes, needed.weights_bytes)
    else:
        kv_bytes = shape.memory_bytes - needed.weights_bytes - needed.overhead_bytes
    per_token = model.kv_bytes_per_token
    return Prediction(
        memory=MemoryFigures(
            weights_bytes=needed.weights_bytes,
            kv_bytes=kv_bytes if per_token else 0,
            kv_tokens=kv_bytes * model.kv_shards(shape.tensor) // per_token if per_token else 0,
            overhead_bytes=None if on_cpu else needed.overhead_bytes,
        )
    )


def vllm_kv_bytes(memory_bytes: int, weights_bytes: int) -> int:
    """What vLLM on a CPU is told to take for KV: what weights and overhead leave of the replica's memory."""
    return max(memory_bytes - weights_bytes - CPU_OVERHEAD_BYTES[Engine.VLLM], LEAST_KV_BYTES)
