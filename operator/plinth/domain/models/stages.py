"""Which layers each pipeline stage gets, as vLLM deals them out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Stage(NamedTuple):
    """One pipeline stage of a model."""

    layers: Mapping[int, int]
    """How many of its layers are of each kind, by index in the model's `layers`."""
    first: bool
    last: bool


def make_stages(order: Sequence[int], pipeline: int) -> tuple[Stage, ...]:
    """The stages of a model whose layers follow each other in this order.

    Equal shares; what is left over goes one each to the stages before the last (vllm/distributed/utils.py,
    `get_pp_indices`): 61 layers on 4 stages are 15, 15, 16, 15.
    """
    share, left = divmod(len(order), pipeline)
    sizes = [share] * pipeline
    for back in range(2, left + 2):
        sizes[-back] += 1
    stages, start = [], 0
    for index, size in enumerate(sizes):
        stages.append(Stage(Counter(order[start : start + size]), index == 0, index == pipeline - 1))
        start += size
    return tuple(stages)
