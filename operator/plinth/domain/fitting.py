"""One replica fitted to a place: its shape, the memory it is given, what it should measure, and why.

On accelerators sizing chooses the shape. On a CPU there is one: a process with as much memory as it needs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from plinth.domain.accelerators.catalogue import CPU
from plinth.domain.figures import Prediction
from plinth.domain.fleet import Engine
from plinth.domain.predictions import make_prediction, vllm_kv_bytes
from plinth.domain.quantities import MIB, ceil_div, format_bytes, format_count, plural
from plinth.domain.sizing import performance
from plinth.domain.sizing.choice import SMALLER, ShapeChoice, SizingRefusal, choose
from plinth.domain.sizing.goals import Promise, make_promise
from plinth.domain.sizing.memory import MemoryPlan, plan_memory
from plinth.domain.sizing.performance import predict
from plinth.domain.sizing.refusals import refuse_asked_on
from plinth.domain.sizing.request import FULL_SPEED_PERMILLE, SizingRequest
from plinth.domain.sizing.shape import Rejected, Shape
from plinth.domain.sizing.spread import find_spread

CPU_MEMORY_STEP_BYTES = 64 * MIB
"""Memory on CPU nodes is asked for in steps, so that a few bytes more or less are no new revision."""


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """One question: what is asked of sizing, and what only a process on a CPU needs."""

    sizing: SizingRequest
    file_bytes: int
    """Of the weights as the engine opens them; 0: they are converted first. Counts on a CPU only."""
    threads: int
    """For computing on a CPU; 0 on accelerators."""
    knows_speed: bool
    """Whether the place's figures are those of its hardware: one processor is not like another."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a replica gets."""

    shape: Shape
    nodes: int
    """Over how many nodes it is spread, evenly."""
    memory_bytes: int
    """What the engine may use on each accelerator; on a CPU node, in all."""
    kv_bytes: int
    """What it is told to take for KV; 0: whatever is left."""
    adapter_bytes: int
    """Of its memory, for adapters on a CPU node; 0: the engine sees to it."""
    threads: int
    sentences: tuple[str, ...]
    prediction: Prediction
    promise: Promise | None
    """What is to be expected of the goals, by what was measured too; None where nobody knows the speed."""
    rejected: tuple[Rejected, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FitRefusal:
    """Why no replica fits."""

    message: str


def fit_replica(request: FitRequest) -> Fit | FitRefusal:
    """The replica, or why there is none."""
    if request.sizing.place.accelerator.name == CPU:
        return _on_cpu(request)
    found = choose(request.sizing)
    if isinstance(found, SizingRefusal):
        return FitRefusal(message=found.message)
    place = request.sizing.place
    return Fit(
        shape=found.shape,
        nodes=find_spread(found.shape, place) or 1,
        # By what nodes say and not by the catalogue: a better figure there would be a new revision.
        memory_bytes=place.memory_bytes * place.utilization_percent // 100 or place.engine_bytes,
        kv_bytes=0,
        adapter_bytes=0,
        threads=0,
        sentences=_sentences(found),
        prediction=_predict(request, found.shape, found.memory, found.predicted),
        promise=found.promise,
        rejected=found.rejected,
    )


def _sentences(choice: ShapeChoice) -> tuple[str, ...]:
    return (*choice.reasons, *(f"not {each.shape}: {each.reason}" for each in choice.rejected))


def _predict(
    request: FitRequest, shape: Shape, memory: MemoryPlan, corrected: performance.Prediction | None = None
) -> Prediction:
    """As computed from model and hardware alone: what was measured corrects it where it is shown.

    What is `corrected` already is the same where there is nothing to correct.
    """
    sizing, computed = request.sizing, corrected
    if not request.knows_speed:
        computed = None
    elif computed is None or sizing.speed_permille != FULL_SPEED_PERMILLE:
        computed = predict(replace(sizing, speed_permille=FULL_SPEED_PERMILLE), shape, memory)
    return make_prediction(sizing, memory, computed)


def _on_cpu(request: FitRequest) -> Fit | FitRefusal:
    """One process on one node's cores: memory = weights + adapters + KV + overhead, rounded up to the step."""
    sizing, load = request.sizing, request.sizing.load
    refusal = refuse_asked_on(sizing.place, sizing.asked)
    if refusal is not None:
        return FitRefusal(message=refusal)
    needed = plan_memory(sizing, Shape())
    weights = request.file_bytes or needed.weights_bytes
    adapters = f" + adapters {format_bytes(needed.adapter_bytes)}" if needed.adapter_bytes else ""
    parts = (
        f"weights {format_bytes(weights)}{adapters} + KV {format_bytes(needed.needed_kv_bytes)}"
        f" ({load.concurrency} x {format_count(load.context_tokens)} tokens)"
        f" + overhead {format_bytes(needed.overhead_bytes)}"
    )
    total = weights + needed.adapter_bytes + needed.needed_kv_bytes + needed.overhead_bytes
    total = ceil_div(total, CPU_MEMORY_STEP_BYTES) * CPU_MEMORY_STEP_BYTES
    if total > sizing.place.engine_bytes:
        most = format_bytes(sizing.place.engine_bytes)
        have = f"no node of pool {sizing.place.pool} has more than {most} to use"
        return FitRefusal(message=f"one replica needs {format_bytes(total)}: {parts}; {have}; {SMALLER}")
    memory = _allocated(sizing, needed, weights, total)
    threads = plural(request.threads, "thread")
    return Fit(
        shape=Shape(),
        nodes=1,
        memory_bytes=total,
        kv_bytes=needed.needed_kv_bytes,
        adapter_bytes=needed.adapter_bytes,
        threads=request.threads,
        sentences=(f"TP1 on the CPU with {threads}: {parts} = {format_bytes(total)}",),
        prediction=_predict(request, Shape(), memory),
        promise=_promise_on_cpu(request, memory),
    )


def _promise_on_cpu(request: FitRequest, memory: MemoryPlan) -> Promise | None:
    if not request.knows_speed:
        return None
    return make_promise(request.sizing, Shape(), predict(request.sizing, Shape(), memory))


def _allocated(sizing: SizingRequest, needed: MemoryPlan, weights: int, total: int) -> MemoryPlan:
    """What the engine makes of its memory: llama.cpp takes KV for the stated load, vLLM what it is told."""
    load = sizing.load
    if sizing.engine is Engine.LLAMA_CPP:
        kv_bytes = needed.needed_kv_bytes
        kv_tokens = load.concurrency * load.context_tokens if kv_bytes else 0
    else:
        kv_bytes = vllm_kv_bytes(total, weights, needed.adapter_bytes)
        room = needed.weights_bytes + needed.adapter_bytes + needed.overhead_bytes + kv_bytes
        place = replace(sizing.place, memory_bytes=room, utilization_percent=100)
        kv_tokens = plan_memory(replace(sizing, place=place), Shape()).kv_tokens
    return replace(needed, weights_bytes=weights, kv_bytes=kv_bytes if kv_tokens else 0, kv_tokens=kv_tokens)
