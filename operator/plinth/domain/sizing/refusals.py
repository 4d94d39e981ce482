"""Degrees set by hand that cannot work, each with those that would; asked at admission and by the plan alike."""

from __future__ import annotations

from plinth.domain.accelerators.catalogue import CPU
from plinth.domain.models.architecture import ModelArchitecture
from plinth.domain.quantities import plural
from plinth.domain.sizing.candidates import largest_tensor
from plinth.domain.sizing.request import Asked, Place
from plinth.domain.sizing.rules import find_obstacle
from plinth.domain.sizing.shape import Shape

FIELD = "spec.parallelism"
_SUGGESTED_MOST = 8
"""Degrees that refusals suggest go at least this far, whatever the pool has."""


def refuse_asked(model: ModelArchitecture, asked: Asked) -> str | None:
    """Why the engine would not take these degrees on whatever pool, with tensor degrees that it would; or None."""
    tensor = asked.tensor or 1
    obstacle = find_obstacle(model, Shape(tensor=tensor))
    if obstacle is not None:
        able = [
            str(degree)
            for degree in range(1, max(tensor, _SUGGESTED_MOST) + 1)
            if find_obstacle(model, Shape(tensor=degree)) is None
        ]
        return f"{FIELD}.tensor: {obstacle}; {_join(able)} would"
    shape = Shape(
        tensor=tensor, pipeline=asked.pipeline or 1, data=asked.data or 1, expert=_experts(asked, tensor)
    )
    obstacle = find_obstacle(model, shape)
    return None if obstacle is None else f"{FIELD}: {shape}: {obstacle}"


def refuse_asked_on(place: Place, asked: Asked) -> str | None:
    """Why the place has not the accelerators for these degrees, whatever the model; or None."""
    in_one_node = (asked.tensor or 1) * (asked.data or 1)
    if place.accelerator.name == CPU:
        return _refuse_on_cpu(asked)
    most = largest_tensor(place)
    if in_one_node > most:
        have = plural(most, "accelerator")
        return (
            f"{FIELD}.tensor: {in_one_node} is more than a node of the pool has ({have}); use fewer, or another"
            " spec.pool"
        )
    stages = (asked.pipeline or 1) * in_one_node
    if stages > place.accelerators_per_node * place.nodes:
        have = plural(place.accelerators_per_node * place.nodes, "accelerator")
        return f"{FIELD}.pipeline: {plural(stages, 'accelerator')} are more than the pool has ({have})"
    return None


def _refuse_on_cpu(asked: Asked) -> str | None:
    degrees = {
        "tensor": asked.tensor,
        "pipeline": asked.pipeline,
        "data": asked.data,
        "expert": asked.expert,
    }
    more = [f"{FIELD}.{name}: {degree}" for name, degree in degrees.items() if degree not in {None, 1}]
    return f"{more[0]} needs accelerators; on CPU nodes 1 would do" if more else None


def _experts(asked: Asked, tensor: int) -> int:
    """Copies that nothing was said of spread their experts: unspread they would gain nothing."""
    if asked.expert is not None:
        return asked.expert
    return tensor * asked.data if asked.data is not None and asked.data > 1 else 1


def _join(degrees: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(degrees[:-1]), degrees[-1]]))
