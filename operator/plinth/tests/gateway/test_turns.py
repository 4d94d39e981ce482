"""Requests that wait in two workers for the same replica: served in one order, and no room is left unused.

Two desks on one loop stand for the workers. Each makes exactly the calls that a worker's dispatch makes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from plinth.gateway.routing.choice import Standing, with_room
from plinth.gateway.server.shared_load import LoadBoard, ModelShare, ReplicaShare, waiting_rank
from plinth.gateway.server.turns import LOOK_WHILE_WAITING_SECONDS, YIELD_SECONDS, Turns, WakeUps
from plinth.tests.gateway.harness import eventually, scenario

HOLD_SECONDS = 0.004
CONCURRENCY = 4


class Desk:
    """One worker's queue in front of one replica."""

    def __init__(self, board: LoadBoard, wakes: WakeUps, served: list[tuple[int, float]]) -> None:
        self.lane = board.lane
        self.served = served
        self.queue: deque[float] = deque()
        self.share = ModelShare(board, 0)
        self.replica = ReplicaShare(board, 0, Standing(slot="s", concurrency=CONCURRENCY))
        self.share.replicas = [self.replica]
        self.turns = Turns(self.share, wakes.wake)
        self.wakes = wakes
        self.hangs = False
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(wakes.mine, self.on_woken)
        self._retry: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None

    def submit(self) -> None:
        self.queue.append(time.monotonic())
        self.dispatch()
        if self.queue:
            self.share.look_again()  # published now: whoever freed room meanwhile may not have seen it
            self.dispatch()

    def on_woken(self) -> None:
        self.wakes.take()
        self.share.look_again()
        self.dispatch()

    def dispatch(self) -> None:
        if self.hangs:
            return
        now = time.monotonic()
        self.share.look(now)
        while self.queue and with_room([self.replica.standing]):
            if not self.turns.is_mine(waiting_rank(1, self.queue[0]), now):
                if self._retry is None:
                    self._retry = self.loop.call_later(YIELD_SECONDS, self._try_again)
                break
            self.served.append((self.lane, self.queue.popleft()))
            self.replica.add(1, 0)
            self.loop.call_later(HOLD_SECONDS, self.release)
        self.share.publish_waiting(waiting_rank(1, self.queue[0]) if self.queue else 0)
        if self.queue and self._look is None:
            self._look = self.loop.call_later(LOOK_WHILE_WAITING_SECONDS, self._look_by_itself)

    def release(self) -> None:
        self.replica.add(-1, 0)
        if self.queue:
            self.dispatch()
        else:
            self.turns.give_up_room()

    def close(self) -> None:
        self.loop.remove_reader(self.wakes.mine)
        for timer in (self._retry, self._look):
            if timer is not None:
                timer.cancel()

    def _try_again(self) -> None:
        self._retry = None
        self.dispatch()

    def _look_by_itself(self) -> None:
        self._look = None
        self.share.look_again()
        self.dispatch()


@contextmanager
def two_desks() -> Iterator[tuple[Desk, Desk, list[tuple[int, float]]]]:
    board, descriptor = LoadBoard.create(2)
    boards = [board, LoadBoard.join(descriptor, lanes=2, lane=1)]
    events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
    served: list[tuple[int, float]] = []
    one, two = (Desk(item, WakeUps(events, item.lane), served) for item in boards)
    try:
        yield one, two, served
    finally:
        one.close()
        two.close()
        for number in (*events, descriptor):
            os.close(number)
        for item in boards:
            item.close()


@scenario
async def test_a_burst_at_one_worker_is_not_starved_by_another_that_is_always_busy() -> None:
    with two_desks() as (busy, burst, served):
        for _ in range(30):
            busy.submit()
        await asyncio.sleep(0.003)
        for _ in range(30):
            burst.submit()
        await asyncio.sleep(0.003)
        for _ in range(60):
            busy.submit()
        await eventually(lambda: len(served) == 120)
        arrivals = [since for _, since in served]
        late = [index - place for index, place in enumerate(sorted(range(120), key=arrivals.__getitem__))]
        assert max(map(abs, late)) <= 2 * CONCURRENCY, (
            "in order of arrival, but for the room given out at once"
        )


@scenario
async def test_room_that_one_worker_has_no_use_for_goes_to_the_other_at_once() -> None:
    with two_desks() as (one, two, served):
        for _ in range(CONCURRENCY):
            one.submit()
        two.submit()
        assert len(served) == CONCURRENCY, "full for both"
        took = await eventually(lambda: len(served) == CONCURRENCY + 1)
        assert took < LOOK_WHILE_WAITING_SECONDS / 2, "woken, not found by looking"


@scenario
async def test_a_worker_that_hangs_with_the_oldest_request_holds_the_others_up_for_a_moment_only() -> None:
    with two_desks() as (hung, other, served):
        for _ in range(CONCURRENCY):
            other.submit()
        hung.submit()
        hung.hangs = True
        await asyncio.sleep(0.002)
        for _ in range(20):
            other.submit()
        began = time.monotonic()
        await eventually(lambda: len(served) == CONCURRENCY + 20)
        assert time.monotonic() - began < 20 / CONCURRENCY * HOLD_SECONDS * 2 + 10 * YIELD_SECONDS


@scenario
async def test_a_wake_up_that_got_lost_costs_no_more_than_the_next_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with two_desks() as (one, two, served):
        monkeypatch.setattr(one, "turns", Turns(one.share, lambda _: None))
        for _ in range(CONCURRENCY):
            one.submit()
        two.submit()
        took = await eventually(lambda: len(served) == CONCURRENCY + 1)
        assert took < 2 * LOOK_WHILE_WAITING_SECONDS + HOLD_SECONDS
