import dataclasses
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.fleet import EngineSpec
from plinth.domain.revisions import revision_of
from plinth.tests.domain.builders import make_spec


def test_a_revision_is_eight_hex_digits_and_the_same_for_ever() -> None:
    # Pinned: a change of how revisions are made would replace every replica of every fleet.
    assert revision_of(make_spec()) == "5027fe83"


@pytest.mark.parametrize("changed", [each.name for each in dataclasses.fields(EngineSpec)])
def test_every_field_counts(changed: str) -> None:
    old = getattr(make_spec(), changed)
    new: object = {"x": "y"} if isinstance(old, dict) else ("z",) if isinstance(old, tuple) else f"{old}1"
    if isinstance(old, int):
        new = old + 1
    assert revision_of(make_spec(**{changed: new})) != revision_of(make_spec())


@given(st.permutations([("a", "1"), ("b", "2"), ("c", "3")]))
def test_the_order_of_arguments_does_not_count(items: list[tuple[str, str]]) -> None:
    assert revision_of(make_spec(args=dict(items))) == revision_of(
        make_spec(args={"a": "1", "b": "2", "c": "3"})
    )


def test_a_field_that_a_later_version_adds_with_a_default_makes_no_new_revision() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Later(EngineSpec):
        draft_model: str = ""
        adapters: dict[str, str] = field(default_factory=dict)

    later = Later(**{each.name: getattr(make_spec(), each.name) for each in dataclasses.fields(EngineSpec)})
    assert revision_of(later) == revision_of(make_spec())
    assert revision_of(dataclasses.replace(later, draft_model="small")) != revision_of(make_spec())
