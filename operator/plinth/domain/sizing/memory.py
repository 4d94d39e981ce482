"""What a shape takes of each accelerator, and how many tokens of KV cache are left.

As vLLM does it (`v1/worker/gpu_worker.py`, `determine_available_memory`): the KV cache gets what is left of the
engine's share after weights, room for adapters, the peak of a step, memory outside PyTorch, and CUDA graphs where the
runner profiles them. All figures are for the fullest rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from plinth.domain.accelerators.catalogue import CPU, Accelerator
from plinth.domain.fleet import Engine
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.quantities import ceil_div
from plinth.domain.sizing.activation import activation_bytes
from plinth.domain.sizing.adapters import adapter_bytes
from plinth.domain.sizing.allocation import slack_bytes
from plinth.domain.sizing.calibration import CALIBRATION, Calibration, MemoryConstants
from plinth.domain.sizing.engine_defaults import (
    BatchLimits,
    batch_limits,
    block_tokens,
    graph_count,
    has_new_runner,
)
from plinth.domain.sizing.filling import filling_bytes
from plinth.domain.sizing.request import EngineOptions, SizingRequest
from plinth.domain.sizing.shape import Shape


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Memory of one accelerator (on a CPU node: of the replica), and what the replica can hold in all."""

    weights_bytes: int
    adapter_bytes: int
    """Room for LoRA adapters."""
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
    load, place = request.load, request.place
    setting = _Setting(
        request.engine,
        place.accelerator,
        place.total_bytes,
        request.options,
        load.context_tokens,
        calibration.memory,
    )
    laid = _lay_out(request.model, shape, setting)
    left = place.engine_bytes - laid.weights - laid.adapters - laid.overhead
    users = ceil_div(load.concurrency, shape.data)
    fitting = users
    if laid.kept:
        fitting = 1 + (left - laid.first) // laid.kept if left >= laid.first else 0
    return MemoryPlan(
        weights_bytes=laid.weights,
        adapter_bytes=laid.adapters,
        overhead_bytes=laid.overhead,
        kv_bytes=left,
        kv_tokens=laid.tokens_in(max(0, left)) * shape.data,
        needed_kv_bytes=laid.first + (users - 1) * laid.kept,
        full_requests=fitting * shape.data,
    )


class _Setting(NamedTuple):
    """All that memory depends on beside model and shape, but for how many ask at once and the engine's share."""

    engine: Engine
    accelerator: Accelerator
    total_bytes: int
    options: EngineOptions
    context_tokens: int
    constants: MemoryConstants


class _Layout(NamedTuple):
    """What it comes to, in bytes of a rank."""

    weights: int
    adapters: int
    overhead: int
    kept: int
    """Of one request of the longest context."""
    first: int
    """The same while a step of its prompt is read."""
    grown: int
    """Of one token more."""
    context: int
    """Tokens of the longest context."""
    block: int
    """Tokens."""

    def tokens_in(self, left: int) -> int:
        """Tokens in whole blocks. Where windows or states make tokens unequal: full contexts that fit, times their length.

        Both as vLLM counts them (`v1/core/kv_cache_utils.py`, `get_num_blocks` and `get_kv_cache_capacity`); of a
        sliding layer it counts the window and a whole step of a prompt (`SlidingWindowSpec`), though only requests
        that are being read keep so much.
        """
        if self.first == 0:
            return 0
        if self.grown * self.context == self.first:
            return left // (self.grown * self.block) * self.block
        return left * self.context // self.first


@lru_cache(maxsize=4096)
def _lay_out(model: ModelArchitecture, shape: Shape, setting: _Setting) -> _Layout:
    """Pure, and remembered: a fleet asks for the same few models again and again, with other loads."""
    accelerator, options, context = setting.accelerator, setting.options, setting.context_tokens
    limits = batch_limits(accelerator, setting.total_bytes, options)
    weights = model.weights_bytes_per_rank(tensor=shape.tensor, pipeline=shape.pipeline, expert=shape.expert)
    if accelerator.name == CPU:
        overhead = setting.constants.cpu_bytes[setting.engine]
    else:
        weights += slack_bytes(model, shape) + filling_bytes(model, shape, accelerator)
        weights += model.rotary_bytes
        overhead = _overhead_bytes(model, shape, limits, setting)
    split = {
        "tensor": shape.tensor,
        "pipeline": shape.pipeline,
        "element_bytes": options.kv_element_bytes,
    }
    return _Layout(
        weights=weights,
        adapters=adapter_bytes(model, shape, options.adapters),
        overhead=overhead,
        kept=model.kv_bytes_per_request_per_rank(context, **split),
        first=model.kv_bytes_per_request_per_rank(context, **split, step_tokens=limits.tokens),
        grown=model.kv_bytes_per_token_per_rank(**split),
        context=context,
        block=block_tokens(model, accelerator),
    )


def _overhead_bytes(model: ModelArchitecture, shape: Shape, limits: BatchLimits, setting: _Setting) -> int:
    constants = setting.constants
    overhead = constants.base_bytes + activation_bytes(
        model,
        shape,
        limits,
        context_tokens=setting.context_tokens,
        hidden_copies=constants.hidden_copies,
    )
    if shape.tensor > 1 or shape.expert > 1:
        overhead += constants.communication_bytes
    if setting.options.graphs and not has_new_runner(model):
        layers = ceil_div(model.layer_count, shape.pipeline)
        # With adapters vLLM captures each once more, for batches that need none (`CudagraphDispatcher._get_lora_cases`).
        graphs = graph_count(limits) * (2 if setting.options.adapters else 1)
        overhead += graphs * layers * constants.graph_bytes_per_layer
    return overhead
