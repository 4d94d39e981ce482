"""Over how many nodes a shape is spread."""

import pytest

from plinth.domain.sizing.request import Place
from plinth.domain.sizing.shape import Shape
from plinth.domain.sizing.spread import find_spread
from plinth.tests.domain.sizing.sizing_builders import known


@pytest.mark.parametrize(
    ("shape", "nodes"),
    [
        (Shape(tensor=8), 1),
        (Shape(tensor=2, pipeline=4), 1),
        (Shape(tensor=2, data=4, expert=8), 1),
        (Shape(tensor=8, pipeline=2), 2),
        (Shape(tensor=4, pipeline=4), 2),
        (Shape(tensor=5, pipeline=3), 3),
        (Shape(tensor=8, pipeline=4), 4),
    ],
)
def test_a_shape_lies_on_the_fewest_nodes_with_as_many_stages_on_each(shape: Shape, nodes: int) -> None:
    place = Place(accelerator=known("H100"), accelerators_per_node=8, nodes=4)
    assert find_spread(shape, place) == nodes


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        (Shape(tensor=16), "a layer is split within one node"),
        (Shape(tensor=8, pipeline=5), "there are four nodes"),
        (
            Shape(tensor=4, pipeline=3),
            "two stages and one are not as many, and three nodes would not be three",
        ),
        (Shape(tensor=8, data=2, expert=16), "copies of one replica lie on one node"),
    ],
)
def test_what_cannot_be_shared_out_evenly_has_no_spread(shape: Shape, why: str) -> None:
    place = Place(accelerator=known("H100"), accelerators_per_node=8, nodes=4)
    assert find_spread(shape, place) is None, why


def test_stages_of_linked_pairs_fill_one_node_and_never_two() -> None:
    pairs = Place(accelerator=known("H100-NVL"), accelerators_per_node=8, nodes=2)
    assert pairs.accelerator.link.domain_size == 2
    assert find_spread(Shape(tensor=2, pipeline=4), pairs) == 1
    assert find_spread(Shape(tensor=4, pipeline=2), pairs) is None
    assert find_spread(Shape(tensor=2, pipeline=8), pairs) is None, "what a node has of it must share a link"
