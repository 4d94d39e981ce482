"""The shapes that are worth asking about in a place: tensor ranks in one link domain, stages across nodes, experts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from plinth.domain.accelerators.catalogue import CPU, LinkKind
from plinth.domain.fleet import Engine
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.sizing.request import Asked, Place, SizingRequest
from plinth.domain.sizing.rules import find_obstacle
from plinth.domain.sizing.shape import Shape
from plinth.domain.sizing.spread import find_spread, largest_tensor

MOST_STAGES = 16


def find_candidates(request: SizingRequest) -> tuple[Shape, ...]:
    """Shapes that the place has room for and that nothing asked for by hand rules out, the fewest accelerators first.

    Among as many accelerators the plainest is first: one stage, one copy, experts not spread.
    """
    if request.place.accelerator.name == CPU or request.engine is Engine.LLAMA_CPP:
        return tuple(shape for shape in (Shape(),) if _is_as_asked(shape, request.asked))
    return _all_shapes(request.model, request.place, request.asked)


@lru_cache(maxsize=4096)
def _all_shapes(model: ModelArchitecture, place: Place, asked: Asked) -> tuple[Shape, ...]:
    """Pure, and remembered: a fleet has few models and places, and many loads."""
    widths = range(1, largest_tensor(place) + 1)
    staged = tuple(tensor for tensor in widths if _is_staged(model, place, asked, tensor))
    found = _shapes(place, staged, spreads_experts=model.experts > 0)
    return tuple(sorted((shape for shape in found if _is_as_asked(shape, asked)), key=_plainness))


def _plainness(shape: Shape) -> tuple[int, ...]:
    return (shape.accelerators, shape.pipeline, shape.data, shape.expert, shape.tensor)


def _shapes(place: Place, staged: tuple[int, ...], *, spreads_experts: bool) -> Iterator[Shape]:
    most = largest_tensor(place)
    for tensor in range(1, most + 1):
        yield Shape(tensor=tensor)
        if spreads_experts:
            yield from _expert_shapes(tensor, most)
        if tensor in staged:
            shapes = (Shape(tensor=tensor, pipeline=pipeline) for pipeline in range(2, MOST_STAGES + 1))
            yield from (shape for shape in shapes if find_spread(shape, place) is not None)


def _expert_shapes(tensor: int, most: int) -> Iterator[Shape]:
    if tensor > 1:
        yield Shape(tensor=tensor, expert=tensor)
    for data in range(2, most // tensor + 1):
        yield Shape(tensor=tensor, data=data, expert=tensor * data)


def _is_staged(model: ModelArchitecture, place: Place, asked: Asked, tensor: int) -> bool:
    """Stages only where splitting layers further is slow or not possible, or by hand; in one node, else on several."""
    by_hand = asked.pipeline is not None
    slow = place.accelerator.link.kind is LinkKind.PCIE
    widest = 2 * tensor > largest_tensor(place)
    return by_hand or slow or widest or find_obstacle(model, Shape(tensor=2 * tensor)) is not None


def _is_as_asked(shape: Shape, asked: Asked) -> bool:
    pairs = (
        (shape.tensor, asked.tensor),
        (shape.pipeline, asked.pipeline),
        (shape.expert, asked.expert),
        (shape.data, asked.data),
    )
    return all(wanted in {None, degree} for degree, wanted in pairs)
