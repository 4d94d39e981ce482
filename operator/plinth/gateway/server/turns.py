"""Whose turn it is when requests wait in several workers and a replica has room.

Every worker has a queue of its own, and room is noticed by the worker whose request has ended. Were it to keep all the
room that it sees, a worker that got a burst would wait behind one that merely is busy. So room goes to the request that
comes first in all queues: its worker is woken, and the others hold back for a moment. A worker that does not take its
turn within that moment (it hangs, or has its reasons) is passed over until another request is its first.

A wake-up is a kernel counter for each lane (eventfd), which the loop watches like a socket. One can be missed when two
workers publish and look within the same nanoseconds, so a worker with a queue also looks by itself now and then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final

from plinth.gateway.server.shared_load import ModelShare

YIELD_SECONDS: Final = 0.005
"""How long room is left to another worker: some hundred times what a wake-up takes."""
LOOK_WHILE_WAITING_SECONDS: Final = 0.05


class WakeUps:
    """Wakes the workers of a gateway by their lanes."""

    __slots__ = ("_descriptors", "_lane")

    def __init__(self, descriptors: Sequence[int], lane: int) -> None:
        self._descriptors = descriptors
        self._lane = lane

    @property
    def mine(self) -> int:
        """Readable when somebody has woken this worker."""
        return self._descriptors[self._lane]

    def wake(self, lane: int) -> None:
        """Makes that worker look at its queues."""
        os.eventfd_write(self._descriptors[lane], 1)

    def take(self) -> None:
        """Forgets what has woken this worker, so that the next wake-up is seen."""
        os.eventfd_read(self.mine)


class Turns:
    """Takes turns for one model. `now` is in monotonic seconds."""

    __slots__ = ("_first", "_passed_at", "_share", "_wake")

    def __init__(self, share: ModelShare, wake: Callable[[int], None]) -> None:
        self._share = share
        self._wake = wake
        self._first: tuple[int, int] | None = None
        """The rank and lane for which this worker holds back, or has held back."""
        self._passed_at = 0.0

    def is_mine(self, rank: int, now: float) -> bool:
        """Whether a request of this rank may have the room there is; wakes who comes before it.

        After a no, ask again in YIELD_SECONDS.
        """
        first = self._share.first_elsewhere()
        if first is None or rank <= first[0]:
            self._first = None
            return True
        if first != self._first:
            self._first = first
            self._passed_at = now + YIELD_SECONDS
            self._wake(first[1])
        return now >= self._passed_at

    def give_up_room(self) -> None:
        """Room came that this worker has no request for: wakes the one that has, if any."""
        first = self._share.first_elsewhere()
        if first is not None:
            self._wake(first[1])
