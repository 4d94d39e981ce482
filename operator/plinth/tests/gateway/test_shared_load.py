"""Memory that workers share: what one writes the others add up, and what a dead one leaves is taken out."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.load_reports import TOTALS
from plinth.gateway.routing.choice import Standing
from plinth.gateway.server.model import Totals
from plinth.gateway.server.shared_load import LOOK_SECONDS, LoadBoard, ModelShare, ReplicaShare, waiting_rank
from plinth.gateway.server.turns import YIELD_SECONDS, Turns, WakeUps
from plinth.tests.gateway.harness import scenario

LANES = 4


@pytest.fixture
def boards() -> Iterator[list[LoadBoard]]:
    """The same memory as each of four workers sees it, all in this process."""
    first, descriptor = LoadBoard.create(LANES)
    found = [first, *(LoadBoard.join(descriptor, lanes=LANES, lane=lane) for lane in range(1, LANES))]
    os.close(descriptor)
    yield found
    for board in found:
        board.close()


def make_share(board: LoadBoard, seat: int = 0) -> ReplicaShare:
    return ReplicaShare(board, seat, Standing(slot=f"s{seat}", concurrency=8))


def test_a_worker_sees_its_own_load_at_once_and_the_others_when_it_looks(boards: list[LoadBoard]) -> None:
    mine, other = make_share(boards[0]), make_share(boards[1])
    mine.add(1, 1000)
    other.add(2, 300)
    assert (mine.standing.in_flight, mine.standing.pending_tokens) == (1, 1000)
    assert mine.standing.in_flight_elsewhere == 0
    mine.refresh()
    assert (mine.standing.in_flight_elsewhere, mine.standing.pending_tokens_elsewhere) == (2, 300)
    assert mine.standing.in_flight == 1


def test_a_replica_that_one_worker_has_filled_is_full_for_all(boards: list[LoadBoard]) -> None:
    filler, mine = make_share(boards[3]), ModelShare(boards[0], 0)
    mine.replicas = [make_share(boards[0])]
    filler.add(8, 0)
    mine.look(now=10.0)
    standing = mine.replicas[0].standing
    assert standing.in_flight + standing.in_flight_elsewhere == standing.concurrency


def test_a_look_within_a_millisecond_of_the_last_costs_and_shows_nothing(boards: list[LoadBoard]) -> None:
    model = ModelShare(boards[0], 0)
    model.replicas = [make_share(boards[0])]
    standing = model.replicas[0].standing
    model.look(now=5.0)
    make_share(boards[1]).add(1, 0)
    model.look(now=5.0 + LOOK_SECONDS / 2)
    assert standing.in_flight_elsewhere == 0
    model.look(now=5.0 + LOOK_SECONDS)
    assert standing.in_flight_elsewhere == 1
    make_share(boards[2]).add(1, 0)
    model.look_again()
    model.look(now=5.0 + LOOK_SECONDS)
    assert standing.in_flight_elsewhere == 2


@given(
    st.lists(
        st.tuples(st.integers(0, LANES - 1), st.integers(0, 2), st.integers(0, 1 << 22), st.booleans()),
        max_size=40,
    )
)
def test_whatever_happens_in_whatever_order_the_sum_is_what_is_outstanding(
    steps: list[tuple[int, int, int, bool]],
) -> None:
    """Tokens may be settled before requests, or after them: a lane is below zero for a moment."""
    board, descriptor = LoadBoard.create(LANES)
    lanes = [board, *(LoadBoard.join(descriptor, lanes=LANES, lane=lane) for lane in range(1, LANES))]
    os.close(descriptor)
    shares = [[make_share(item, seat) for seat in range(3)] for item in lanes]
    expected = [[0, 0] for _ in range(3)]
    for lane, seat, tokens, back in steps:
        change = (0, -min(tokens, 1 << 20)) if back else (1, tokens)
        shares[lane][seat].add(*change)
        expected[seat][0] += change[0]
        expected[seat][1] += change[1]
    for seat, (requests, tokens) in enumerate(expected):
        reader = shares[0][seat]
        reader.refresh()
        standing = reader.standing
        assert standing.in_flight + standing.in_flight_elsewhere == requests == board.in_flight(seat)
        assert standing.pending_tokens + standing.pending_tokens_elsewhere == tokens
    for item in lanes:
        item.close()


def test_a_dead_workers_lane_is_cleared_and_the_others_keep_theirs(boards: list[LoadBoard]) -> None:
    for board in boards:
        make_share(board, 5).add(1, 10)
        model = ModelShare(board, 3)
        model.publish_waiting(1 + abs(board.lane - 2))
        for index in range(len(TOTALS)):
            model.publish_count(index, index)
    parent = boards[0]
    assert parent.counts(3, lane=2) == tuple(range(len(TOTALS)))
    assert ModelShare(parent, 3).first_elsewhere() == (1, 2)
    parent.clear(2, replicas=[5], models=[3])
    assert parent.in_flight(5) == LANES - 1
    assert ModelShare(parent, 3).first_elsewhere() == (2, 1)
    assert parent.counts(3, lane=2) == (0,) * len(TOTALS)
    assert parent.counts(3, lane=1) == tuple(range(len(TOTALS)))


def test_totals_are_published_under_the_names_by_which_they_are_read(boards: list[LoadBoard]) -> None:
    totals = Totals()
    totals.arrivals, totals.completed, totals.failed, totals.output_tokens_reported = 1, 2, 3, 4
    met = totals.objectives
    met.ttft_met, met.ttft_missed, met.tpot_met, met.tpot_missed = 5, 6, 7, 8
    totals.publish(ModelShare(boards[1], 3))
    told = {
        "arrivals_total": 1,
        "completed_total": 2,
        "failed_total": 3,
        "output_tokens_total": 4,
        "ttft_met_total": 5,
        "ttft_missed_total": 6,
        "tpot_met_total": 7,
        "tpot_missed_total": 8,
    }
    assert dict(zip(TOTALS, boards[0].counts(3, lane=1), strict=True)) == told


def test_a_worker_that_has_a_model_again_goes_on_where_its_totals_stood(boards: list[LoadBoard]) -> None:
    ModelShare(boards[1], 3).publish_count(0, 7)
    again = ModelShare(boards[1], 3)
    again.publish_count(0, 7)
    again.publish_count(1, 2)
    assert boards[0].counts(3, lane=1)[:2] == (7, 2)


def test_a_replica_that_left_and_came_back_while_its_requests_ran_is_counted_whole(
    boards: list[LoadBoard],
) -> None:
    before, after = make_share(boards[1]), make_share(boards[1])
    before.add(2, 30)
    after.add(1, 5)
    before.add(-1, -30)
    seen = make_share(boards[0])
    seen.refresh()
    assert (seen.standing.in_flight_elsewhere, seen.standing.pending_tokens_elsewhere) == (2, 5)


def test_a_process_without_others_needs_no_second_way() -> None:
    board = LoadBoard.alone()
    model = ModelShare(board, 0)
    model.replicas = [make_share(board)]
    model.replicas[0].add(1, 50)
    model.look(now=1.0)
    assert model.replicas[0].standing.in_flight_elsewhere == 0
    model.publish_waiting(9)
    assert model.first_elsewhere() is None
    board.close()


# --- whose turn it is ----------------------------------------------------------------------------------------


def test_a_higher_band_ranks_before_an_older_request_of_a_lower_one() -> None:
    ranks = [waiting_rank(0, 900.0), waiting_rank(1, 20.0), waiting_rank(1, 20.001), waiting_rank(2, 0.0)]
    assert ranks == sorted(set(ranks))
    assert all(0 < rank < 1 << 63 for rank in ranks)


def test_room_goes_to_the_worker_whose_request_came_first(boards: list[LoadBoard]) -> None:
    woken: list[int] = []
    turns = Turns(ModelShare(boards[0], 0), woken.append)
    assert turns.is_mine(50, now=1.0)
    ModelShare(boards[2], 0).publish_waiting(40)
    assert not turns.is_mine(50, now=1.0)
    assert woken == [2]
    assert turns.is_mine(30, now=1.001), "what came before that one need not wait"
    turns.give_up_room()
    assert woken == [2, 2]


def test_a_worker_that_does_not_take_its_turn_is_passed_over_until_its_first_changes(
    boards: list[LoadBoard],
) -> None:
    woken: list[int] = []
    hung = ModelShare(boards[1], 0)
    turns = Turns(ModelShare(boards[0], 0), woken.append)
    hung.publish_waiting(10)
    assert not turns.is_mine(20, now=1.0)
    assert not turns.is_mine(20, now=1.0 + YIELD_SECONDS / 2)
    assert turns.is_mine(20, now=1.0 + YIELD_SECONDS)
    assert turns.is_mine(21, now=1.0 + YIELD_SECONDS), "once passed over, it costs the next ones nothing"
    assert woken == [1], "one wake-up is enough"
    hung.publish_waiting(15)
    assert not turns.is_mine(21, now=2.0)


def test_nobody_is_woken_when_nobody_waits(boards: list[LoadBoard]) -> None:
    woken: list[int] = []
    mine = ModelShare(boards[0], 0)
    mine.publish_waiting(10)
    Turns(mine, woken.append).give_up_room()
    assert woken == []


def test_several_wake_ups_before_a_worker_looks_are_one() -> None:
    descriptors = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2)]
    one, two = WakeUps(descriptors, 0), WakeUps(descriptors, 1)
    one.wake(1)
    one.wake(1)
    two.take()
    with pytest.raises(BlockingIOError):
        two.take()
    for descriptor in descriptors:
        os.close(descriptor)


# --- real processes ------------------------------------------------------------------------------------------

ADDER = """
import sys
from plinth.gateway.routing.choice import Standing
from plinth.gateway.server.shared_load import LoadBoard, ReplicaShare
board = LoadBoard.join(int(sys.argv[1]), lanes=4, lane=int(sys.argv[2]))
share = ReplicaShare(board, 7, Standing(slot="s", concurrency=1))
for _ in range(50_000):
    share.add(1, 100)
    share.add(-1, -100)
    share.add(1, 7)
"""


@scenario
async def test_processes_that_write_at_once_lose_nothing_and_no_reader_sees_half_a_word() -> None:
    board, descriptor = LoadBoard.create(LANES)
    reader = make_share(board, 7)
    seen = reader.standing
    folder = Path(__file__).parents[3]
    children = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", ADDER, str(descriptor), str(lane), pass_fds=(descriptor,), cwd=folder
        )
        for lane in (1, 2, 3)
    ]
    changes = set()
    while any(child.returncode is None for child in children):
        for _ in range(1000):
            reader.refresh()
            # Whatever moment is read: no request without its tokens, no tokens without their request.
            changes.add(seen.pending_tokens_elsewhere - 7 * seen.in_flight_elsewhere)
        await asyncio.sleep(0)
    assert changes <= {0, 93, 186, 279}
    assert (seen.in_flight_elsewhere, seen.pending_tokens_elsewhere) == (150_000, 7 * 150_000)
    os.close(descriptor)
    board.close()
