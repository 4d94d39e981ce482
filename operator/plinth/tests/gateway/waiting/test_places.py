"""Which replicas have a place, and for whom."""

from __future__ import annotations

from plinth.gateway.routing.choice import Standing
from plinth.gateway.waiting.places import Room, count_places, is_ample, reserve


def slots(standings: list[Standing]) -> list[str]:
    return [standing.slot for standing in standings]


def three(*in_flight: int) -> list[Standing]:
    """Replicas of eight places; five of the 24 are kept back."""
    return [Standing(name, 8, in_flight=number) for name, number in zip("abc", in_flight, strict=True)]


def test_the_reserve_is_of_all_replicas_together() -> None:
    assert slots(Room(three(8, 8, 2)).open) == ["c"]
    room = Room(three(8, 8, 3))
    assert (slots(room.open), slots(room.every)) == ([], ["c"])


def test_each_replica_keeps_its_part_of_the_reserve_while_another_has_more() -> None:
    """So that those who come back do not all read their prompts at the same replica."""
    room = Room(three(7, 6, 4))
    assert (slots(room.open), slots(room.every)) == (["b", "c"], ["a", "b", "c"])


def test_the_reserve_grows_with_the_square_root_of_the_places() -> None:
    assert [reserve(places) for places in (0, 1, 15, 16, 24, 96, 256)] == [0, 0, 0, 4, 5, 10, 16]


def test_a_model_of_few_places_gives_all_of_them_to_anybody() -> None:
    assert slots(Room([Standing("a", 4, in_flight=3), Standing("b", 4, in_flight=4)]).open) == ["a"]


def test_a_replica_with_more_room_than_is_kept_need_not_be_compared_with_others() -> None:
    for free in range(33):
        alike = [
            Standing(str(number), 32, in_flight=32 - (free if number == 0 else 0)) for number in range(8)
        ]
        assert is_ample(alike[0], 8) == bool(Room(alike).open)
    assert not is_ample(Standing("a", 36, in_flight=16, trying=4), 8)


def test_places_that_are_tried_are_for_those_who_would_wait_anyway() -> None:
    standings = three(6, 6, 8)
    standings[2].concurrency, standings[2].trying = 9, 1
    room = Room(standings)
    assert (slots(room.open), slots(room.every)) == (["c"], ["a", "b"])


def test_one_replica_is_tried_at_a_time() -> None:
    standings = three(8, 9, 8)
    for standing in standings[1:]:
        standing.concurrency, standing.trying = 9, 1
    assert Room(standings).open == [], "the first to be tried is full, and holds back the other"
    standings[1].ejected = True
    assert slots(Room(standings).open) == ["c"]


def test_a_replica_that_is_away_has_no_places() -> None:
    standings = [Standing("a", 32, available=False)]
    assert (Room(standings).every, Room(standings).open, count_places(standings)) == ([], [], 0)
