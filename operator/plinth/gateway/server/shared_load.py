"""What all workers of one gateway see together: each replica's load, each model's queue, what was counted.

One anonymous file is mapped by the parent and by every worker. It consists of 64-bit words, and every word has one
writer: a worker writes only the words of its own lane. So there is no lock, and a writer knows its words without
reading them. Those that change with every request lie together by lanes: no two workers write in one cache line, and a
worker's core waits for another's only when it looks. A reader adds the lanes up while others write. No word is ever seen half written: words are aligned, and CPython copies them whole
(`memoryview` and `struct` in native mode, a single store or load on every 64-bit machine). Words of different lanes may
be some microseconds apart in time, as they would be a moment earlier or later: a sum is an estimate of load by nature.

A lane belongs to one worker process for its life. When it dies its parent is the heir: reads the last counts and
clears the lane.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from typing import Final, SupportsIndex

from plinth.domain.load_reports import TOTALS
from plinth.gateway.routing.choice import Share, Standing

LOOK_SECONDS: Final = 0.001
"""How old a worker's view of the others may be. What it does itself it sees at once."""
MOST_REPLICAS: Final = 8192
MOST_MODELS: Final = 2048
"""Seats. Memory that no seat needs is never touched, so never there."""
_WORD: Final = 8
_LANE_WORDS: Final = MOST_REPLICAS + MOST_MODELS * len(TOTALS)
"""A lane: its load at each replica, then its totals of each model."""
_TOKEN_BITS: Final = 40
"""One word holds both of a replica's figures, so that no reader sees one without the other: requests above bit 40,
prompt tokens below. The 2^39 tokens that fit are more than any memory holds."""
_HALF: Final = 1 << (_TOKEN_BITS - 1)


class OwnWord:
    """This worker's load at one replica."""

    __slots__ = ("_at", "_value", "_words")

    def __init__(self, words: memoryview, at: int) -> None:
        self._words = words
        self._at: SupportsIndex = at  # kept as an object: it need not be made one for each write
        self._value: int = words[at]

    def add(self, amount: int) -> None:
        """Writes the new sum, which needs no look at the old one."""
        self._value += amount
        self._words[self._at] = self._value


class LoadBoard:
    """The memory as one process sees it. Lane numbers count from 0.

    First who waits, a row of all lanes for each model, which is written only where somebody does; then the lanes.
    """

    __slots__ = ("_own", "lane", "lanes", "memory", "others", "words")

    def __init__(self, memory: mmap.mmap, *, lanes: int, lane: int) -> None:
        self.memory = memory
        self.lanes = lanes
        self.lane = lane
        self.words = memoryview(memory).cast("q")
        self.others = [self.lane_at(other) for other in range(lanes) if other != lane]
        """Where the other lanes begin."""
        self._own: dict[int, OwnWord] = {}

    @classmethod
    def create(cls, lanes: int) -> tuple[LoadBoard, int]:
        """A board of so many lanes, and the file descriptor by which other processes join it."""
        descriptor = os.memfd_create("plinth-load", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _size(lanes))
        return cls.join(descriptor, lanes=lanes, lane=0), descriptor

    @classmethod
    def join(cls, descriptor: int, *, lanes: int, lane: int) -> LoadBoard:
        """The board that another process has made, to write in this lane."""
        return cls(mmap.mmap(descriptor, _size(lanes)), lanes=lanes, lane=lane)

    @classmethod
    def alone(cls) -> LoadBoard:
        """For a process that has no others beside it."""
        return cls(mmap.mmap(-1, _size(1)), lanes=1, lane=0)

    def close(self) -> None:
        """Lets go of the memory."""
        self.words.release()
        self.memory.close()

    def lane_at(self, lane: int) -> int:
        """Index of a lane's first word."""
        return MOST_MODELS * self.lanes + lane * _LANE_WORDS

    def counts_at(self, seat: int, lane: int) -> int:
        """Index of the first word of a lane's totals of a model."""
        return self.lane_at(lane) + MOST_REPLICAS + seat * len(TOTALS)

    def own(self, seat: int) -> OwnWord:
        """This worker's word at a replica's seat: one for all who write there, if the replica went and came back."""
        if seat not in self._own:
            self._own[seat] = OwnWord(self.words, self.lane_at(self.lane) + seat)
        return self._own[seat]

    def in_flight(self, seat: int) -> int:
        """Requests at a replica, all workers together."""
        both: int = sum(self.words[self.lane_at(lane) + seat] for lane in range(self.lanes))
        return (both + _HALF) >> _TOKEN_BITS

    def counts(self, seat: int, lane: int) -> tuple[int, ...]:
        """One worker's totals of a model, in the order of TOTALS."""
        start = self.counts_at(seat, lane)
        return tuple(self.words[start : start + len(TOTALS)])

    def clear(self, lane: int, *, replicas: Iterable[int], models: Iterable[int]) -> None:
        """Takes out what a dead worker left at these seats."""
        words = self.words
        for seat in replicas:
            words[self.lane_at(lane) + seat] = 0
        for seat in models:
            words[seat * self.lanes + lane] = 0
            start = self.counts_at(seat, lane)
            for index in range(start, start + len(TOTALS)):
                words[index] = 0


class ReplicaShare(Share):
    """One replica: this worker's part of its load, published; the others' part, read into its standing."""

    __slots__ = ("_mine", "_others", "_words", "seat", "standing")

    def __init__(self, board: LoadBoard, seat: int, standing: Standing) -> None:
        self.standing = standing
        self.seat = seat if board.lanes > 1 else None
        """By which the other workers know it; None where there are none."""
        self._words = board.words
        self._mine = board.own(seat)
        self._others = [at + seat for at in board.others]

    def add(self, requests: int, tokens: int) -> None:
        """Requests and unread prompt tokens that this worker has given to the replica, or (negative) that are done."""
        self._mine.add((requests << _TOKEN_BITS) + tokens)
        standing = self.standing
        standing.in_flight += requests
        standing.pending_tokens += tokens

    def refresh(self) -> None:
        """Puts what the other workers have there into the standing."""
        words, both = self._words, 0
        for at in self._others:
            both += words[at]
        standing = self.standing
        # Rounded, not cut off: tokens that are below zero for a moment must not take a request with them.
        standing.in_flight_elsewhere = requests = (both + _HALF) >> _TOKEN_BITS
        standing.pending_tokens_elsewhere = both - (requests << _TOKEN_BITS)


class ModelShare:
    """One model: its replicas' whole load, and who waits for it in which worker.

    A waiting request is published by its rank: the smaller is before. Workers compare ranks, so they must be made the
    same way in all of them, from the band and the time of arrival (`waiting_rank`).
    """

    __slots__ = ("_board", "_counts_at", "_look_at", "_mine", "_nobody", "_row", "_told", "replicas")

    def __init__(self, board: LoadBoard, seat: int) -> None:
        self.replicas: list[ReplicaShare] = []
        """Those of the newest table; set anew with each."""
        row = seat * board.lanes
        self._board = board
        self._row = slice(row * _WORD, (row + board.lanes) * _WORD)
        """Who waits, in bytes."""
        self._nobody = bytes(board.lanes * _WORD)
        self._mine = row + board.lane
        self._counts_at = board.counts_at(seat, board.lane)
        self._told = list(board.counts(seat, board.lane))
        self._look_at = 0.0

    def look(self, now: float) -> None:
        """Reads the others' load anew when the last look is a millisecond old. `now`: monotonic seconds."""
        if now >= self._look_at and self._board.lanes > 1:
            self._look_at = now + LOOK_SECONDS
            for replica in self.replicas:
                replica.refresh()

    def look_again(self) -> None:
        """Makes the next look a real one."""
        self._look_at = 0.0

    def publish_waiting(self, rank: int) -> None:
        """The rank of the request that waits in this worker and is next; 0 for none."""
        self._board.words[self._mine] = rank

    def first_elsewhere(self) -> tuple[int, int] | None:
        """The rank of the first request that waits in another worker, and that worker's lane."""
        board = self._board
        row = board.memory[self._row]
        if row == self._nobody or board.lanes == 1:
            return None
        ranks = memoryview(row).cast("q")
        return min(
            ((rank, lane) for lane, rank in enumerate(ranks) if rank and lane != board.lane), default=None
        )

    def publish_count(self, index: int, total: int) -> None:
        """One of this worker's totals, by its place in TOTALS, so that it outlives the worker. Few change at a time."""
        if total != self._told[index]:
            self._told[index] = self._board.words[self._counts_at + index] = total


def waiting_rank(band: int, since: float) -> int:
    """The rank of a request of this band (0 is served first) that has waited since then, in monotonic seconds.

    The clock counts from the machine's start, alike in all its processes: 2^48 ms of it are 8,900 years.
    """
    return (band << 48) + int(since * 1000) + 1


def _size(lanes: int) -> int:
    return (MOST_MODELS + _LANE_WORDS) * lanes * _WORD
