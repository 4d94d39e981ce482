"""The shape of one replica: over how many accelerators it is split and what memory that takes.

All formulae are per accelerator, and conservative by less than 1% against what was measured with Qwen2.5-32B's
shape on H200 (see `tests/domain/test_shapes.py`):

    weights   stored bytes / TP, plus 1% above TP1 for what every rank holds (norms, padding)
    KV cache  context tokens · concurrency · KV bytes a token / min(TP, KV heads)
    overhead  vLLM: 1 GiB (CUDA graphs, non-torch) + peak activation, see `activation_bytes`
"""

from __future__ import annotations

from dataclasses import dataclass

from plinth.domain.architecture import Architecture
from plinth.domain.fleet import Engine
from plinth.domain.pools import Pool
from plinth.domain.quantities import GIB, MIB, ceil_div, format_bytes, format_count, plural

TENSOR_FIELD = "spec.parallelism.tensor"
GPU_FIXED_OVERHEAD_BYTES = GIB
CPU_OVERHEAD_BYTES = {Engine.LLAMA_CPP: 400 * MIB, Engine.VLLM: 2 * GIB}
"""Process, libraries and compute buffers of one replica on a CPU; a reserve, not a measurement."""
CPU_MEMORY_STEP_BYTES = 64 * MIB
"""Memory on CPU nodes is asked for in steps, so that a few bytes more or less are no new revision."""
LARGE_ACCELERATOR_BYTES = 70 * GIB
SMALLER = "lower spec.objectives.concurrency or contextTokens, take a quantised model, or a spec.pool with more memory"
"""What a model that does not fit can do."""
SUGGESTED_TENSOR_MAX = 8
"""Degrees that refusals suggest go at least this far, whatever the pool has."""


@dataclass(frozen=True, kw_only=True)
class ShapeRequest:
    """What one replica must hold, and where."""

    architecture: Architecture
    weights_bytes: int
    engine: Engine
    pool: Pool
    context_tokens: int
    concurrency: int
    tensor: int | None
    """Asked for by hand, or None."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Memory of one replica on each accelerator; on a CPU node, in all."""

    weights_bytes: int
    kv_bytes: int
    """For the stated context and concurrency."""
    overhead_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_bytes + self.overhead_bytes


@dataclass(frozen=True, kw_only=True)
class ShapeDecision:
    """The shape chosen and why not another."""

    tensor: int
    footprint: Footprint
    memory_bytes: int
    """What the engine may use on each accelerator; on a CPU node, in all."""
    threads: int
    reason: str
    rejected: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ShapeRefusal:
    """No shape; the message names each candidate and its obstacle."""

    message: str


def choose_shape(request: ShapeRequest) -> ShapeDecision | ShapeRefusal:
    """The smallest tensor parallel degree that divides the model and fits one node of the pool."""
    if request.pool.is_cpu:
        return _cpu_shape(request)
    return _gpu_shape(request)


def tensor_obstacle(architecture: Architecture, tensor: int) -> str | None:
    """Why this degree cannot split the model, or None. vLLM's rules: heads % TP, and KV heads % TP or TP % KV heads.

    Multi-head latent attention has no KV heads to split, so only the attention heads count.
    """
    kv_heads, heads = architecture.kv_heads, architecture.heads
    if not architecture.kv_is_latent and kv_heads % tensor and tensor % kv_heads:
        return f"{tensor} does not divide the model's {kv_heads} KV heads"
    if heads % tensor:
        return f"{tensor} does not divide the model's {heads} attention heads"
    return None


def footprint(request: ShapeRequest, tensor: int) -> Footprint:
    """Memory per accelerator at a degree.

    Qwen2.5-32B at 40 requests of 8192 tokens, TP2: weights 59.07 GiB / 2 · 1.01 = 29.83 GiB (measured 29.73), KV
    40 · 8192 · 262144 B / 2 = 40 GiB, overhead 1 GiB + 8192 · (4 · 5120 + 2 · 27648 / 2) · 2 B = 1.73 GiB.
    """
    weights = request.weights_bytes if tensor == 1 else request.weights_bytes * 101 // (100 * tensor)
    model = request.architecture
    tokens = request.context_tokens * request.concurrency
    if request.pool.is_cpu:
        overhead = CPU_OVERHEAD_BYTES[request.engine]
    else:
        overhead = GPU_FIXED_OVERHEAD_BYTES + activation_bytes(request, tensor)
    return Footprint(
        weights_bytes=weights,
        kv_bytes=ceil_div(tokens * model.kv_bytes_per_token, model.kv_shards(tensor)),
        overhead_bytes=overhead,
    )


def activation_bytes(request: ShapeRequest, tensor: int) -> int:
    """Peak activation of one prefill step: batched tokens · (4 · hidden + 2 · intermediate / TP) · 2 bytes.

    vLLM batches 8192 tokens a step on accelerators from 70 GiB on, 2048 below (`EngineArgs.get_batch_defaults`).
    """
    large = request.pool.least_accelerator_bytes >= LARGE_ACCELERATOR_BYTES
    batched_tokens = 8192 if large else 2048
    model = request.architecture
    return batched_tokens * (4 * model.hidden + 2 * model.intermediate // tensor) * 2


def _gpu_shape(request: ShapeRequest) -> ShapeDecision | ShapeRefusal:
    most = max((node.accelerators for node in request.pool.nodes_for(request.engine)), default=0)
    if request.pool.least_accelerator_bytes == 0:
        return ShapeRefusal(
            message=f"the nodes of pool {request.pool.name} do not say how much memory they have"
        )
    if request.tensor is not None:
        return _asked_shape(request, request.tensor, most)
    rejected: list[str] = []
    for tensor in range(1, most + 1):
        why_not = tensor_obstacle(request.architecture, tensor) or _memory_obstacle(request, tensor)
        if why_not is None:
            return _decide(request, tensor, [*rejected, *_larger_alternative(request, tensor, most)])
        rejected.append(f"TP{tensor}: {why_not}")
    tried = "; ".join(rejected) or f"pool {request.pool.name} has no node with {request.engine}"
    return ShapeRefusal(message=f"no shape fits one node of pool {request.pool.name}: {tried}; {SMALLER}")


def refuse_degree(architecture: Architecture, tensor: int, most: int = SUGGESTED_TENSOR_MAX) -> str | None:
    """Why a degree asked for cannot split the model on whatever pool, with those that can; None where it can."""
    obstacle = tensor_obstacle(architecture, tensor)
    return None if obstacle is None else f"{TENSOR_FIELD}: {obstacle}; {_suggest(architecture, most)} would"


def refuse_degree_on(pool: Pool, tensor: int, most: int) -> str | None:
    """Why no node of the pool has the accelerators for a degree, whatever the model; None where one has.

    `most` is the most accelerators that one of its nodes has.
    """
    if pool.is_cpu:
        return (
            f"{TENSOR_FIELD}: {tensor} needs accelerators; on CPU nodes 1 would do" if tensor != 1 else None
        )
    have = plural(most, "accelerator")
    return (
        f"{TENSOR_FIELD}: {tensor} is more than a node of the pool has ({have}); use fewer, or another spec.pool"
        if tensor > most
        else None
    )


def _asked_shape(request: ShapeRequest, tensor: int, most: int) -> ShapeDecision | ShapeRefusal:
    refusal = refuse_degree(request.architecture, tensor, most) or refuse_degree_on(
        request.pool, tensor, most
    )
    if refusal is not None:
        return ShapeRefusal(message=refusal)
    obstacle = _memory_obstacle(request, tensor)
    if obstacle is not None:
        return ShapeRefusal(message=f"{TENSOR_FIELD}: {tensor} is too few: {obstacle}")
    return _decide(request, tensor, [])


def _suggest(architecture: Architecture, most: int) -> str:
    degrees = range(1, max(most, SUGGESTED_TENSOR_MAX) + 1)
    able = [str(degree) for degree in degrees if tensor_obstacle(architecture, degree) is None]
    return " or ".join(filter(None, [", ".join(able[:-1]), able[-1]]))


def _memory_obstacle(request: ShapeRequest, tensor: int) -> str | None:
    usable = request.pool.least_accelerator_bytes
    needed = footprint(request, tensor)
    room_for_kv = usable - needed.weights_bytes - needed.overhead_bytes
    if room_for_kv <= 0:
        weights = format_bytes(needed.weights_bytes)
        return f"weights of {weights} an accelerator leave no room for KV in {format_bytes(usable)}"
    if room_for_kv < needed.kv_bytes:
        holds = _kv_tokens(request.architecture, room_for_kv, tensor) // request.context_tokens
        context = format_count(request.context_tokens)
        return f"its KV cache holds {holds} requests of {context} tokens, {request.concurrency} asked"
    return None


def _larger_alternative(request: ShapeRequest, chosen: int, most: int) -> list[str]:
    for tensor in range(chosen + 1, most + 1):
        if tensor_obstacle(request.architecture, tensor) is None:
            return [f"TP{tensor}: fits too, with {plural(tensor - chosen, 'accelerator')} more"]
    return []


def _decide(request: ShapeRequest, tensor: int, rejected: list[str]) -> ShapeDecision:
    usable = request.pool.least_accelerator_bytes
    needed = footprint(request, tensor)
    room_for_kv = usable - needed.weights_bytes - needed.overhead_bytes
    tokens = _kv_tokens(request.architecture, room_for_kv, tensor)
    how = "asked for by hand" if request.tensor else "the smallest that fits"
    kv_words = f"KV {format_bytes(room_for_kv)}"
    if tokens:
        kv_words += f" = {format_count(tokens)} tokens = {_requests(request, tokens)}"
    return ShapeDecision(
        tensor=tensor,
        footprint=needed,
        memory_bytes=usable,
        threads=0,
        reason=f"TP{tensor} ({how}): weights {format_bytes(needed.weights_bytes)} an accelerator, {kv_words}",
        rejected=tuple(rejected),
    )


def _cpu_shape(request: ShapeRequest) -> ShapeDecision | ShapeRefusal:
    """One process on one node's cores: TP1, memory = weights + KV + overhead, rounded up to the step."""
    refusal = refuse_degree_on(request.pool, request.tensor or 1, most=0)
    if refusal is not None:
        return ShapeRefusal(message=refusal)
    nodes = request.pool.nodes_for(request.engine)
    needed = footprint(request, 1)
    memory = ceil_div(needed.total_bytes, CPU_MEMORY_STEP_BYTES) * CPU_MEMORY_STEP_BYTES
    parts = (
        f"weights {format_bytes(needed.weights_bytes)} + KV {format_bytes(needed.kv_bytes)}"
        f" ({request.concurrency} x {format_count(request.context_tokens)} tokens)"
        f" + overhead {format_bytes(needed.overhead_bytes)}"
    )
    most = max((request.pool.usable_memory_bytes(node) for node in nodes), default=0)
    if memory > most:
        have = f"no node of pool {request.pool.name} has more than {format_bytes(most)} to use"
        return ShapeRefusal(message=f"one replica needs {format_bytes(memory)}: {parts}; {have}; {SMALLER}")
    # One thread a physical core, as llama.cpp itself counts; it must not depend on the number of replicas, or a
    # change of scale would be a new revision.
    threads = max(1, min(node.cpus for node in nodes) // 2)
    return ShapeDecision(
        tensor=1,
        footprint=needed,
        memory_bytes=memory,
        threads=threads,
        reason=f"TP1 on the CPU with {plural(threads, 'thread')}: {parts} = {format_bytes(memory)}",
        rejected=(),
    )


def _requests(request: ShapeRequest, tokens: int) -> str:
    requests = tokens // request.context_tokens
    return f"{requests} requests of {format_count(request.context_tokens)}"


def _kv_tokens(architecture: Architecture, kv_bytes: int, tensor: int) -> int:
    if architecture.kv_bytes_per_token == 0:
        return 0
    return kv_bytes * architecture.kv_shards(tensor) // architecture.kv_bytes_per_token
