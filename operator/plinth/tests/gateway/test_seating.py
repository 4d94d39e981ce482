"""Seats in the shared memory: the same for the same place, and never given to another too early."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.traffic import ReplicaRoute
from plinth.gateway.routing.choice import Standing
from plinth.gateway.server.seating import Seating, Shares, place_of
from plinth.gateway.server.shared_load import LoadBoard, ReplicaShare
from plinth.tests.gateway.harness import make_model, make_replica, make_table

ONE, TWO, THREE = (make_replica(port) for port in (1001, 1002, 1003))


def nothing(_: int) -> int:
    return 0


def made(shares: Shares, route: ReplicaRoute) -> ReplicaShare:
    share = shares.replica(route, Standing(slot=route.slot, concurrency=4))
    assert share is not None
    return share


def test_replicas_and_models_keep_their_seats_from_table_to_table() -> None:
    seating = Seating()
    first = seating.apply(make_table(make_model(ONE, TWO)))
    second = seating.apply(make_table(make_model(TWO, THREE), version=2))
    assert second.replicas[place_of(TWO)] == first.replicas[place_of(TWO)]
    assert len(set(second.replicas.values())) == 3, "the one that left is still in some worker's table"
    assert first.models == second.models


def test_the_same_slot_at_another_address_has_a_load_of_its_own() -> None:
    seating = Seating()
    moved = make_replica(2000, slot=ONE.slot)
    before = seating.apply(make_table(make_model(ONE))).replicas[place_of(ONE)]
    assert seating.apply(make_table(make_model(moved), version=2)).replicas[place_of(moved)] != before


def test_a_seat_is_given_anew_only_when_nothing_is_in_flight_there() -> None:
    seating = Seating()
    seat = seating.apply(make_table(make_model(ONE))).replicas[place_of(ONE)]
    seating.apply(make_table(make_model(TWO), version=2))
    seating.take_back(lambda asked: 1 if asked == seat else 0)
    assert seat in seating.replicas.values()
    seating.take_back(nothing)
    assert place_of(ONE) not in seating.replicas
    assert seating.apply(make_table(make_model(TWO, THREE), version=3)).replicas[place_of(THREE)] == seat


def test_a_replica_that_comes_back_before_its_seat_is_free_gets_the_same_one() -> None:
    seating = Seating()
    seat = seating.apply(make_table(make_model(ONE))).replicas[place_of(ONE)]
    seating.apply(make_table(make_model(TWO), version=2))
    seating.apply(make_table(make_model(ONE), version=3))
    seating.take_back(nothing)
    assert seating.replicas[place_of(ONE)] == seat


def test_a_model_that_comes_back_finds_its_totals() -> None:
    seating = Seating()
    seat = seating.apply(make_table(make_model(model="team/a"))).models["team/a"]
    seating.apply(make_table(make_model(model="team/b"), version=2))
    seating.take_back(nothing)
    assert seating.apply(make_table(make_model(model="team/a"), version=3)).models["team/a"] == seat


def test_workers_told_the_same_seats_see_each_others_load() -> None:
    board, descriptor = LoadBoard.create(2)
    other_board = LoadBoard.join(descriptor, lanes=2, lane=1)
    seats = Seating().apply(make_table(make_model(ONE, TWO)))
    mine, theirs = Shares(board), Shares(other_board)
    for shares in (mine, theirs):
        shares.apply(seats)
    made(theirs, TWO).add(1, 70)
    seen = [made(mine, route) for route in (ONE, TWO)]
    for share in seen:
        share.refresh()
    assert [share.standing.pending_tokens_elsewhere for share in seen] == [0, 70]
    theirs.model("team/tiny").publish_waiting(7)
    assert mine.model("team/tiny").first_elsewhere() == (7, 1)
    os.close(descriptor)
    board.close()
    other_board.close()


def test_what_has_no_seat_is_counted_apart() -> None:
    board = LoadBoard.alone()
    shares = Shares(board)
    one, two = (made(shares, route) for route in (ONE, TWO))
    one.add(1, 70)
    two.refresh()
    assert (two.standing.in_flight, two.standing.in_flight_elsewhere) == (0, 0)
    assert one.standing.in_flight == 1
    board.close()


def test_a_process_without_others_publishes_no_replicas_load() -> None:
    assert Shares().replica(ONE, Standing(slot="one", concurrency=4)) is None
    assert Shares().model("team/tiny").first_elsewhere() is None


@given(st.lists(st.tuples(st.sets(st.integers(1, 12)), st.sets(st.integers(0, 20))), max_size=30))
def test_no_two_replicas_ever_share_a_seat(steps: list[tuple[set[int], set[int]]]) -> None:
    seating = Seating()
    for version, (ports, busy) in enumerate(steps):
        table = make_table(make_model(*map(make_replica, sorted(ports))), version=version)
        seats = seating.apply(table).replicas
        assert {place_of(make_replica(port)) for port in ports} <= seats.keys()
        assert len(set(seats.values())) == len(seats)
        seating.take_back(lambda seat, busy=busy: int(seat in busy))  # type: ignore[misc] # mypy knows no default here
        assert seating.highest <= 12 * 2
