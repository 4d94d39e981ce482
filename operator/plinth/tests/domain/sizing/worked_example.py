"""The worked example of `docs/concepts/planning.md`, computed by the production functions.

PYTHONPATH=operator .venv/bin/python -m plinth.tests.domain.sizing.worked_example
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from plinth.domain.quantities import format_bytes
from plinth.domain.sizing.choice import ShapeChoice, choose
from plinth.domain.sizing.memory import MemoryPlan, plan_memory
from plinth.domain.sizing.performance import predict
from plinth.domain.sizing.request import SizingRequest
from plinth.domain.sizing.shape import Shape
from plinth.tests.domain.models.public_models import read_public
from plinth.tests.domain.sizing.sizing_builders import ask

SHAPES = (Shape(tensor=1), Shape(tensor=2), Shape(tensor=4))


def make_request() -> SizingRequest:
    return ask(
        read_public("Qwen/Qwen2.5-32B"),
        gpu="H200",
        users=40,
        tokens_in=512,
        tokens_out=256,
        context=8192,
        percentile=99,
        ttft_milliseconds=1500,
        tpot_milliseconds=50,
    )


def make_example() -> str:
    """The block as it stands in the document, without its fences."""
    return "\n".join(line.rstrip() for line in _lines(make_request()))


def _lines(request: SizingRequest) -> Iterator[str]:
    model, place, load = request.model, request.place, request.load
    attention = model.layers[0].attention
    yield (
        f"model        Qwen2.5-32B: {model.layer_count} layers, {attention.heads} heads,"
        f" {attention.kv_heads} KV heads of {attention.head_dim}, {model.parameters:,} parameters of 2 bytes"
    )
    yield (
        f"load         {load.concurrency} requests at once of up to {load.context_tokens:,} tokens,"
        f" measured with {load.input_tokens} in and {load.output_tokens} out"
    )
    goals = request.goals
    yield f"goals        {goals.percentile}% within TTFT {goals.ttft_milliseconds} ms, TPOT {goals.tpot_milliseconds} ms"
    yield (
        f"accelerator  H200: {format_bytes(place.total_bytes)} to a process,"
        f" {place.utilization_percent}% of it to the engine: {format_bytes(place.engine_bytes)}"
    )
    yield ""
    yield _row("", [str(shape) for shape in SHAPES])
    memories = [plan_memory(request, shape) for shape in SHAPES]
    yield from _memory_rows(request, memories)
    speeds = [predict(request, shape, memory) for shape, memory in zip(SHAPES, memories, strict=True)]
    yield _row("TTFT p99", [f"{each.ttft_p99_milliseconds} ms" for each in speeds])
    yield _row("TPOT", [f"{each.tpot_microseconds / 1000:.1f} ms" for each in speeds])
    yield _row("tokens/s", [f"{each.tokens_per_second:,}" for each in speeds])
    yield _row("cost of a million", [each.cost_per_million_tokens for each in speeds])
    yield ""
    found = choose(request)
    assert isinstance(found, ShapeChoice)
    yield f"chosen       {found.shape}"
    for rejected in found.rejected:
        yield f"not {rejected.shape}      {rejected.reason}"


def _memory_rows(request: SizingRequest, memories: list[MemoryPlan]) -> Iterator[str]:
    tokens = [
        request.model.kv_bytes_per_token_per_rank(tensor=shape.tensor, pipeline=1, element_bytes=2)
        for shape in SHAPES
    ]
    yield _row("weights", [format_bytes(each.weights_bytes) for each in memories])
    yield _row("overhead", [format_bytes(each.overhead_bytes) for each in memories])
    yield _row("left for KV", [format_bytes(each.kv_bytes) for each in memories])
    yield _row("KV of a token", [f"{each:,} B" for each in tokens])
    yield _row("tokens", [f"{each.kv_tokens:,}" for each in memories])
    yield _row("full requests", [str(each.full_requests) for each in memories])


def _row(name: str, cells: list[str]) -> str:
    return f"{name:<18}" + "".join(f"{cell:>14}" for cell in cells)


if __name__ == "__main__":
    sys.stdout.write(make_example() + "\n")
