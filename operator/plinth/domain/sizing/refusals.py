"""Degrees set by hand that cannot work, each with those that would; asked at admission and by the plan alike."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from plinth.domain.accelerators.catalogue import CPU
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.quantities import plural
from plinth.domain.sizing.candidates import MOST_STAGES
from plinth.domain.sizing.request import Asked, Place
from plinth.domain.sizing.rules import find_obstacle
from plinth.domain.sizing.shape import Shape
from plinth.domain.sizing.spread import find_spread, largest_tensor

FIELD = "spec.parallelism"
_SUGGESTED_MOST = 8
"""Degrees that refusals suggest go at least this far, whatever the pool has."""


def refuse_degrees(asked: Asked) -> str | None:
    """Why no model can be split so, or None: experts are spread over all tensor ranks and copies, or not at all."""
    expert, ranks = asked.expert or 1, (asked.tensor or 1) * (asked.data or 1)
    all_stated = asked.tensor is not None and asked.data is not None
    if expert == 1 or (expert % ranks == 0 and (expert == ranks or not all_stated)):
        return None
    told = [f"{name} {degree}" for name, degree in (("tensor", asked.tensor), ("data", asked.data)) if degree]
    return (
        f"{FIELD}.expert: experts are spread over tensor times data accelerators, and {expert} does not go with"
        f" {' and '.join(told)}; leave expert out, or {' and '.join(told)}"
    )


@lru_cache(maxsize=4096)
def refuse_asked(model: ModelArchitecture, asked: Asked) -> str | None:
    """Why the engine would not take these degrees on whatever pool, with tensor degrees that it would; or None.

    Pure, and remembered: each load of a model asks anew.
    """
    obstacle = find_obstacle(model, Shape(tensor=asked.tensor or 1))
    if obstacle is not None:
        able = [
            str(degree)
            for degree in range(1, max(asked.tensor or 1, _SUGGESTED_MOST) + 1)
            if find_obstacle(model, Shape(tensor=degree)) is None
        ]
        return f"{FIELD}.tensor: {obstacle}; {_join(able)} would"
    obstacles = {shape: find_obstacle(model, shape) for shape in _completed(asked)}
    if None in obstacles.values():
        return None
    plainest, obstacle = next(iter(obstacles.items()))
    return f"{FIELD}: {plainest}: {obstacle}"


def _completed(asked: Asked) -> Iterator[Shape]:
    """The shapes that these degrees could be meant for: experts are spread over tensor ranks, copies, or both."""
    ranks = asked.expert or 1
    for tensor in [asked.tensor] if asked.tensor else range(1, ranks + 1):
        for data in [asked.data] if asked.data else dict.fromkeys((1, max(1, ranks // tensor))):
            yield Shape(
                tensor=tensor,
                pipeline=asked.pipeline or 1,
                data=data,
                expert=asked.expert or (tensor * data if data > 1 else 1),
            )


def refuse_asked_on(place: Place, asked: Asked) -> str | None:
    """Why the place has not the accelerators for these degrees, whatever the model; or None."""
    if place.accelerator.name == CPU:
        return _refuse_on_cpu(asked)
    in_one_node = (asked.tensor or 1) * (asked.data or 1)
    most = largest_tensor(place)
    if in_one_node > most:
        field = "tensor" if asked.tensor is not None else "data"
        have = plural(place.accelerators_per_node, "accelerator")
        if most < place.accelerators_per_node:
            have += f", {most} of them linked"
        return (
            f"{FIELD}.{field}: {in_one_node} is more than a node of the pool has ({have}); use fewer, or another"
            " spec.pool"
        )
    stages = asked.pipeline or 1
    if _has_spread(place, asked, stages):
        return None
    wanted, there = stages * in_one_node, place.accelerators_per_node * place.nodes
    if wanted > there:
        return f"{FIELD}.pipeline: {wanted} accelerators are more than the pool has ({there})"
    able = [str(each) for each in range(1, MOST_STAGES + 1) if _has_spread(place, asked, each)]
    each = plural(in_one_node, "accelerator")
    where = f"{plural(place.nodes, 'node')} of {place.accelerators_per_node}"
    return f"{FIELD}.pipeline: {stages} stages of {each} cannot lie evenly on {where}; {_join(able)} would"


def _has_spread(place: Place, asked: Asked, stages: int) -> bool:
    """Whether so many stages have room, of the width that was asked for or of any."""
    tensors = [asked.tensor] if asked.tensor else range(1, largest_tensor(place) + 1)
    shapes = (Shape(tensor=each, data=asked.data or 1, pipeline=stages) for each in tensors)
    return any(find_spread(shape, place) is not None for shape in shapes)


def _refuse_on_cpu(asked: Asked) -> str | None:
    degrees = {
        "tensor": asked.tensor,
        "pipeline": asked.pipeline,
        "data": asked.data,
        "expert": asked.expert,
    }
    more = [f"{FIELD}.{name}: {degree}" for name, degree in degrees.items() if degree not in {None, 1}]
    return f"{more[0]} needs accelerators; on CPU nodes 1 would do" if more else None


def _join(degrees: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(degrees[:-1]), degrees[-1]]))
