"""What workers share, joined as real workers join it: by the file descriptors that their parent gives them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plinth.domain.traffic import RouteTable
from plinth.gateway.routing.choice import Standing
from plinth.gateway.server.peers import Peers, join_peers, news_bytes
from plinth.gateway.server.seating import Seating
from plinth.gateway.server.shared_load import LoadBoard
from plinth.gateway.server.worker_lines import Place
from plinth.tests.gateway.harness import make_model, make_replica, make_table, scenario

LANES = 4
REPLICA = make_replica(8000)
TABLE: RouteTable = make_table(make_model(REPLICA))


async def alone() -> str:
    return ""


@pytest.fixture
def places() -> Iterator[list[Place]]:
    board, memory = LoadBoard.create(LANES)
    news = os.memfd_create("news")
    os.ftruncate(news, news_bytes(LANES))
    wakes = tuple(os.eventfd(0, os.EFD_NONBLOCK) for _ in range(LANES))
    yield [
        Place(
            lane=lane,
            lanes=LANES,
            control=-1,
            listener=-1,
            memory=memory,
            news=news,
            wakes=wakes,
            counters="",
        )
        for lane in range(LANES)
    ]
    for descriptor in (memory, news, *wakes):
        os.close(descriptor)
    board.close()


def join(place: Place) -> Peers:
    peers = join_peers(place, exposition=alone)
    peers.shares.apply(Seating().apply(TABLE))
    return peers


def test_what_one_worker_sends_to_a_replica_the_others_hear_of_under_the_same_seat(
    places: list[Place],
) -> None:
    one, two = join(places[0]), join(places[3])
    seat = one.shares.seat_of(REPLICA)
    assert seat is not None
    one.news.tell(seat, [11, 12, 13], now=1.0)
    one.news.publish()
    assert two.news.hear() == [(two.shares.seat_of(REPLICA), [11, 12, 13])]
    assert not two.news.hear()
    assert not one.news.hear(), "its own news is none"


def test_what_one_worker_has_at_a_replica_the_others_count(places: list[Place]) -> None:
    standings = [Standing(slot=REPLICA.slot, concurrency=8) for _ in range(2)]
    mine, other = (
        join(place).shares.replica(REPLICA, standing)
        for place, standing in zip(places[:2], standings, strict=True)
    )
    assert mine is not None
    assert other is not None
    mine.add(1, 500)
    other.refresh()
    assert (standings[1].in_flight_elsewhere, standings[1].pending_tokens_elsewhere) == (1, 500)


def test_a_worker_wakes_the_one_that_it_means(places: list[Place]) -> None:
    one, two, three = (join(place) for place in places[:3])
    one.wakes.wake(1)
    two.wakes.take()
    with pytest.raises(BlockingIOError):
        three.wakes.take()


def test_a_replica_that_has_no_seat_is_nobodys_news(places: list[Place]) -> None:
    assert join(places[0]).shares.seat_of(make_replica(9000)) is None


def test_a_place_is_the_same_after_it_has_been_an_argument(places: list[Place]) -> None:
    assert Place.from_argument(places[2].to_argument()) == places[2]
    with pytest.raises(ValueError, match="Object missing required field"):
        Place.from_argument("{}")


TELLER = """
import sys
from plinth.gateway.server.peers import join_peers
from plinth.gateway.server.worker_lines import Place
peers = join_peers(Place.from_argument(sys.argv[1]), exposition=None)
for number in range(2000):
    peers.news.tell(number % 7, [number] * (number % 50), now=float(number))
    peers.news.publish()
"""


@pytest.mark.process
@scenario
async def test_news_from_several_processes_at_once_are_heard_whole(places: list[Place]) -> None:
    listener = join_peers(places[0], exposition=alone)
    descriptors = (places[0].memory, places[0].news, *places[0].wakes)
    children = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", TELLER, place.to_argument()),
            pass_fds=descriptors,
            cwd=Path(__file__).parents[3],
        )
        for place in places[1:]
    ]
    heard = 0
    while True:
        over = all(child.returncode is not None for child in children)
        for seat, blocks in listener.news.hear():
            heard += 1
            assert len(set(blocks)) <= 1
            if blocks:
                assert (seat, len(blocks)) == (blocks[0] % 7, blocks[0] % 50)
        if over:
            break
        await asyncio.sleep(0.001)
    assert [child.returncode for child in children] == [0, 0, 0]
    assert heard > 0
