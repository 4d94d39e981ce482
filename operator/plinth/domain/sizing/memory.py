"""What a shape takes of each accelerator, and how many tokens of KV cache are left.

As vLLM does it (`v1/worker/gpu_worker.py`, `determine_available_memory`): the KV cache gets what is left of the
engine's share after weights, the peak of a step, memory outside PyTorch, and CUDA graphs where the runner profiles
them. All figures are for the fullest rank.
"""

from __future__ import annotations

from dataclasses import dataclass

from plinth.domain.accelerators.catalogue import CPU
from plinth.domain.quantities import ceil_div
from plinth.domain.sizing.activation import activation_bytes
from plinth.domain.sizing.allocation import slack_bytes
from plinth.domain.sizing.calibration import CALIBRATION, Calibration
from plinth.domain.sizing.engine_defaults import batch_limits, block_tokens, graph_count, has_new_runner
from plinth.domain.sizing.filling import filling_bytes
from plinth.domain.sizing.request import SizingRequest
from plinth.domain.sizing.shape import Shape


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Memory of one accelerator (on a CPU node: of the replica), and what the replica can hold in all."""

    weights_bytes: int
    overhead_bytes: int
    """The peak of a step, what lies outside PyTorch, communication, and graphs where they are counted."""
    kv_bytes: int
    """What is left for the KV cache; 0 or less: nothing is."""
    kv_tokens: int
    """Tokens that all copies of the replica hold together; 0 for a model that keeps none."""
    needed_kv_bytes: int
    """What the stated load takes of it."""
    full_requests: int
    """Requests of the stated context that fit at once; the stated concurrency where none keeps anything."""


def plan_memory(request: SizingRequest, shape: Shape, calibration: Calibration = CALIBRATION) -> MemoryPlan:
    """The memory of one shape.

    Qwen2.5-32B at TP2 on an H200 of which the engine has 90%: weights 29.73 GiB, KV 94.6 GiB = 775k tokens.
    """
    model, load = request.model, request.load
    weights = model.weights_bytes_per_rank(tensor=shape.tensor, pipeline=shape.pipeline, expert=shape.expert)
    on_cpu = request.place.accelerator.name == CPU
    if on_cpu:
        overhead = calibration.memory.cpu_bytes[request.engine]
    else:
        weights += slack_bytes(model, shape) + filling_bytes(model, shape, request.place.accelerator)
        weights += model.rotary_bytes
        overhead = _overhead_bytes(request, shape, calibration)
    left = request.place.engine_bytes - weights - overhead
    kept = _kept_bytes(request, shape)
    first = _kept_bytes(request, shape, step_tokens=_step_tokens(request))
    users = ceil_div(load.concurrency, shape.data)
    fitting = users
    if kept:
        fitting = 1 + (left - first) // kept if left >= first else 0
    return MemoryPlan(
        weights_bytes=weights,
        overhead_bytes=overhead,
        kv_bytes=left,
        kv_tokens=_kv_tokens(request, shape, max(0, left)),
        needed_kv_bytes=first + (users - 1) * kept,
        full_requests=fitting * shape.data,
    )


def _overhead_bytes(request: SizingRequest, shape: Shape, calibration: Calibration) -> int:
    model, place, constants = request.model, request.place, calibration.memory
    limits = batch_limits(place.accelerator, place.total_bytes, request.options)
    overhead = constants.base_bytes + activation_bytes(
        model,
        shape,
        limits,
        context_tokens=request.load.context_tokens,
        hidden_copies=constants.hidden_copies,
    )
    if shape.tensor > 1 or shape.expert > 1:
        overhead += constants.communication_bytes
    if request.options.graphs and not has_new_runner(model):
        layers = ceil_div(model.layer_count, shape.pipeline)
        overhead += graph_count(limits) * layers * constants.graph_bytes_per_layer
    return overhead


def _kept_bytes(request: SizingRequest, shape: Shape, *, step_tokens: int = 0) -> int:
    """What a rank keeps of one request of the longest context, while `step_tokens` of its prompt are read."""
    return request.model.kv_bytes_per_request_per_rank(
        request.load.context_tokens,
        tensor=shape.tensor,
        pipeline=shape.pipeline,
        element_bytes=request.options.kv_element_bytes,
        step_tokens=step_tokens,
    )


def _step_tokens(request: SizingRequest) -> int:
    place = request.place
    return batch_limits(place.accelerator, place.total_bytes, request.options).tokens


def _kv_tokens(request: SizingRequest, shape: Shape, left: int) -> int:
    """Tokens in whole blocks. Where windows or states make tokens unequal: full contexts that fit, times their length.

    Both as vLLM counts them (`v1/core/kv_cache_utils.py`, `get_num_blocks` and `get_kv_cache_capacity`); of a sliding
    layer it counts the window and a whole step of a prompt (`SlidingWindowSpec`), though only requests that are being
    read keep so much.
    """
    model, context = request.model, request.load.context_tokens
    grown = model.kv_bytes_per_token_per_rank(
        tensor=shape.tensor,
        pipeline=shape.pipeline,
        element_bytes=request.options.kv_element_bytes,
    )
    kept = _kept_bytes(request, shape, step_tokens=_step_tokens(request))
    if kept == 0:
        return 0
    if grown * context == kept:
        block = block_tokens(model, request.place.accelerator)
        return left // (grown * block) * block * shape.data
    return left * context // kept * shape.data
