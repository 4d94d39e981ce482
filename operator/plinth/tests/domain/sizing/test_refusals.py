import pytest

from plinth.domain.sizing.refusals import refuse_degrees
from plinth.domain.sizing.request import Asked


@pytest.mark.parametrize(
    "asked",
    [
        Asked(tensor=2),
        Asked(expert=6),
        Asked(expert=1, tensor=2, data=3),
        Asked(expert=6, tensor=2),
        Asked(expert=6, data=3),
        Asked(expert=6, tensor=2, data=3),
        Asked(expert=6, tensor=1, data=6),
    ],
)
def test_degrees_that_go_together_are_left_to_the_model_to_judge(asked: Asked) -> None:
    assert refuse_degrees(asked) is None


@pytest.mark.parametrize(
    ("asked", "with_what"),
    [
        (Asked(expert=4, tensor=3), "tensor 3"),
        (Asked(expert=4, data=8), "data 8"),
        (Asked(expert=8, tensor=2, data=2), "tensor 2 and data 2"),
    ],
)
def test_experts_over_other_ranks_than_there_are_work_for_no_model(asked: Asked, with_what: str) -> None:
    assert refuse_degrees(asked) == (
        f"spec.parallelism.expert: experts are spread over tensor times data accelerators, and {asked.expert} does"
        f" not go with {with_what}; leave expert out, or {with_what}"
    )
