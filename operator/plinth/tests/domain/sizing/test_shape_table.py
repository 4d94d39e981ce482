"""The page of smallest shapes says what the planner chooses, and what it chooses agrees with what others found."""

import pytest

from plinth.tests.domain.models.public_models import PUBLIC_MODELS
from plinth.tests.domain.sizing.shape_table import KINDS, PUBLISHED, Published, make_document, smallest_shape
from plinth.tests.house.documents import ROOT


def test_the_page_is_what_the_planner_makes_of_the_catalogue_and_the_public_models() -> None:
    page = (ROOT / "docs/reference/shapes.md").read_text(encoding="utf-8")
    assert page == make_document(), "made anew by: python -m plinth.tests.domain.sizing.shape_table"
    assert len(PUBLIC_MODELS) >= 40
    assert len(KINDS) >= 6


@pytest.mark.parametrize("each", PUBLISHED, ids=lambda each: f"{each.model}-{each.kind}")
def test_the_smallest_shape_lies_where_others_have_found_it(each: Published) -> None:
    shape = smallest_shape(each.model, each.kind)
    assert each.least <= (shape.accelerators if shape else 0) <= each.most
