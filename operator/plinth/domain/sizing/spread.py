"""Over how many nodes a shape is spread: all of it on one wherever that holds it, else whole stages on each of several.

vLLM's processes of several nodes must be as many on each (`ParallelConfig.local_world_size` in vllm/config/parallel.py:
the world's size divided by the nodes), so each node has as many stages as every other.
"""

from __future__ import annotations

from plinth.domain.sizing.request import Place
from plinth.domain.sizing.shape import Shape


def largest_tensor(place: Place) -> int:
    """The most ranks that one layer can be split over: what one node has, within one link domain."""
    return min(place.accelerators_per_node, place.accelerator.link.domain_size)


def find_spread(shape: Shape, place: Place) -> int | None:
    """The fewest nodes of the place that hold the shape; None where no number does.

    The stages that one of several nodes has lie within one link domain and take more than half of the node, so that
    no node is taken for two.
    """
    width = shape.tensor * shape.data
    if width > largest_tensor(place):
        return None
    if shape.pipeline <= _stages_in_a_node(width, place):
        return 1
    for nodes in range(2, min(place.nodes, shape.pipeline) + 1):
        stages, rest = divmod(shape.pipeline, nodes)
        if not rest and place.accelerators_per_node < 2 * stages * width <= 2 * largest_tensor(place):
            return nodes
    return None


def _stages_in_a_node(width: int, place: Place) -> int:
    """How many stages of so many accelerators a node holds, each within one link domain."""
    domains, rest = divmod(place.accelerators_per_node, place.accelerator.link.domain_size)
    return domains * (place.accelerator.link.domain_size // width) + rest // width
