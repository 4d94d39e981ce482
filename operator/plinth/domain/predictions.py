"""The figures that a chosen shape promises of one replica: what the engine will say of itself, if the plan is right.

On accelerators an engine takes for KV whatever weights and overhead leave. On a CPU llama.cpp allocates KV for the
stated context and concurrency; vLLM is told a number, see `vllm_kv_bytes`.
"""

from __future__ import annotations

from plinth.domain.accelerators.catalogue import CPU
from plinth.domain.figures import MemoryFigures, Prediction, SpeedFigures
from plinth.domain.fleet import Engine
from plinth.domain.quantities import MIB
from plinth.domain.sizing import performance
from plinth.domain.sizing.calibration import CALIBRATION
from plinth.domain.sizing.memory import MemoryPlan
from plinth.domain.sizing.request import SizingRequest

LEAST_KV_BYTES = 256 * MIB
"""vLLM on a CPU never gets less: where it could not hold one request of the whole context, it would not start."""


def make_prediction(
    request: SizingRequest, memory: MemoryPlan, speed: performance.Prediction | None
) -> Prediction:
    """What one replica should measure. No overhead on a CPU: there the plan's is a reserve.

    On accelerators vLLM tells room for adapters as weights (gpu_model_runner.py, `load_model`); on a CPU nobody tells it.
    """
    on_cpu = request.place.accelerator.name == CPU
    return Prediction(
        memory=MemoryFigures(
            weights_bytes=memory.weights_bytes + (0 if on_cpu else memory.adapter_bytes),
            adapter_bytes=memory.adapter_bytes,
            kv_bytes=memory.kv_bytes if memory.kv_tokens else 0,
            kv_tokens=memory.kv_tokens,
            overhead_bytes=None if on_cpu else memory.overhead_bytes,
        ),
        computed=None if speed is None else _speed_figures(speed, request.load.concurrency),
    )


def vllm_kv_bytes(memory_bytes: int, weights_bytes: int, adapter_bytes: int) -> int:
    """What vLLM on a CPU is told to take for KV: what weights, adapters and overhead leave of the replica's memory."""
    overhead = CALIBRATION.memory.cpu_bytes[Engine.VLLM]
    return max(memory_bytes - weights_bytes - adapter_bytes - overhead, LEAST_KV_BYTES)


def _speed_figures(speed: performance.Prediction, concurrency: int) -> SpeedFigures:
    return SpeedFigures(
        concurrency=concurrency,
        ttft_p50_milliseconds=speed.ttft_p50_milliseconds,
        ttft_p99_milliseconds=speed.ttft_p99_milliseconds,
        tpot_microseconds=speed.tpot_microseconds,
        tokens_per_second=speed.tokens_per_second,
        cost_per_million_tokens=speed.cost_per_million_tokens,
    )
