"""What is kept from pass to pass makes no difference."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.placing.plan import plan_places
from plinth.domain.placing.room import Room
from plinth.tests.domain.placing.fleets import fleets
from plinth.tests.domain.placing.instances import Instance
from plinth.tests.domain.placing.placing_builders import make_demand, make_hold, make_host, plan_of, room_of
from plinth.tests.searching import examples


def test_a_host_that_comes_back_with_fewer_accelerators_holds_what_is_still_there() -> None:
    hold = make_hold("x.0", "a", 6, 7)
    room = room_of([make_host("a", 8)], [hold])
    room.update({"a": make_host("a", 7)}, {"x.0": hold})
    assert room.stands["a"].host_free == 6
    room.update({"a": make_host("a", 8)}, {"x.0": hold._replace(leaving=True)})
    assert room.stands["a"].host_free == 6


def test_a_host_that_is_gone_takes_nothing_and_what_it_held_is_forgotten_with_it() -> None:
    hold = make_hold("x.0", "a", 0)
    room = room_of([make_host("a")], [hold])
    room.update({}, {"x.0": hold})
    assert plan_of([], [make_demand()]).pending == plan_places(room, {"m": make_demand()}, moves=0).pending
    room.update({"a": make_host("a")}, {"x.0": hold})
    assert room.stands["a"].host_free == 7


def test_one_looks_at_the_room_without_some_and_finds_it_as_it_was() -> None:
    room = room_of([make_host("a", 2)], [make_hold("x.0", "a", 0, 1)])
    with room.without(["x.0", "unknown"]) as without:
        assert without.stands["a"].host_free == 2
    assert room.stands["a"].host_free == 0
    assert list(room.holds) == ["x.0"]


@given(st.lists(fleets(), min_size=2, max_size=4))
@examples(60)
def test_a_plan_does_not_depend_on_what_was_planned_before(passes: list[Instance]) -> None:
    kept = Room()
    for each in passes:
        kept.update(each.hosts, each.holds)
        fresh = Room()
        fresh.update(each.hosts, each.holds)
        assert plan_places(kept, each.demands, moves=2) == plan_places(fresh, each.demands, moves=2)


@given(fleets(), st.randoms(use_true_random=False))
@examples(60)
def test_a_plan_does_not_depend_on_the_order_in_which_things_are_given(
    fleet: Instance, chance: object
) -> None:
    def mixed(things: object) -> object:
        items = list(things.items())  # type: ignore[attr-defined]  # a mapping
        return dict(chance.sample(items, len(items)))  # type: ignore[attr-defined]  # Hypothesis' seeded Random

    other = Instance(hosts=mixed(fleet.hosts), holds=mixed(fleet.holds), demands=mixed(fleet.demands))  # type: ignore[arg-type]  # as they were
    assert _planned(other) == _planned(fleet)


def _planned(fleet: Instance) -> object:
    room = Room()
    room.update(fleet.hosts, fleet.holds)
    return plan_places(room, fleet.demands, moves=2)
