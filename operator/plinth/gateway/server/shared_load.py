"""What all workers of one gateway see together: each replica's load, each model's queue, what was counted.

One anonymous file is mapped by the parent and by every worker. It consists of 64-bit words, and every word has one
writer: a worker writes only the words of its own lane. So there is no lock, and `+=` loses nothing. A reader adds the
lanes up while others write. No word is ever seen half written: words are aligned, and CPython copies them whole
(`memoryview` and `struct` in native mode, a single store or load on every 64-bit machine). Words of different lanes may
be some microseconds apart in time, as they would be a moment earlier or later: a sum is an estimate of load by nature.

A lane belongs to one worker process for its life. When it dies its parent is the heir: reads the last counts and
clears the lane.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from struct import Struct
from typing import Final

from plinth.domain.load_reports import TOTALS
from plinth.gateway.routing.choice import Share, Standing

LOOK_SECONDS: Final = 0.001
"""How old a worker's view of the others may be. What it does itself it sees at once."""
MOST_REPLICAS: Final = 8192
MOST_MODELS: Final = 2048
"""Seats. Memory that no seat needs is never touched, so never there."""
_WORD: Final = 8
_FIRST, _COUNTS = 0, 1
"""Rows of a model's block; the counts take as many words for each lane as there are totals."""
_MODEL_ROWS: Final = 1 + len(TOTALS)
_REQUEST: Final = 1 << 40
"""One word holds both of a replica's figures, so that no reader sees one without the other: requests above bit 40,
prompt tokens below. The 2^39 tokens that fit are more than any memory holds."""
_HALF: Final = _REQUEST >> 1


class LoadBoard:
    """The memory as one process sees it. Lane numbers count from 0."""

    __slots__ = ("_memory", "lane", "lanes", "read_row", "words")

    def __init__(self, memory: mmap.mmap, *, lanes: int, lane: int) -> None:
        self._memory = memory
        self.lanes = lanes
        self.lane = lane
        self.words = memoryview(memory).cast("q")
        self.read_row = Struct(f"@{lanes}q").unpack_from
        """A row of this board, from a byte offset of `words`."""

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
        self._memory.close()

    def model_row(self, seat: int) -> int:
        """Index of the first word of a model's block."""
        return (MOST_REPLICAS + seat * _MODEL_ROWS) * self.lanes

    def in_flight(self, seat: int) -> int:
        """Requests at a replica, all workers together."""
        both: int = sum(self.read_row(self.words, seat * self.lanes * _WORD))
        return (both + _HALF) // _REQUEST

    def counts(self, seat: int, lane: int) -> tuple[int, ...]:
        """One worker's totals of a model, in the order of TOTALS."""
        start = self.model_row(seat) + _COUNTS * self.lanes + lane * len(TOTALS)
        return tuple(self.words[start : start + len(TOTALS)])

    def clear(self, lane: int, *, replicas: Iterable[int], models: Iterable[int]) -> None:
        """Takes out what a dead worker left at these seats."""
        words, lanes = self.words, self.lanes
        for seat in replicas:
            words[seat * lanes + lane] = 0
        for seat in models:
            start = self.model_row(seat)
            words[start + _FIRST * lanes + lane] = 0
            start += _COUNTS * lanes + lane * len(TOTALS)
            for index in range(start, start + len(TOTALS)):
                words[index] = 0


class ReplicaShare(Share):
    """One replica: this worker's part of its load, published; the others' part, read into its standing."""

    __slots__ = ("_at", "_mine", "_read", "_words", "seat", "standing")

    def __init__(self, board: LoadBoard, seat: int, standing: Standing) -> None:
        self.standing = standing
        self.seat = seat
        self._words = board.words
        self._read = board.read_row
        self._at = seat * board.lanes * _WORD
        self._mine = seat * board.lanes + board.lane

    def add(self, requests: int, tokens: int) -> None:
        """Requests and unread prompt tokens that this worker has given to the replica, or (negative) that are done."""
        self._words[self._mine] += requests * _REQUEST + tokens
        standing = self.standing
        standing.in_flight += requests
        standing.pending_tokens += tokens

    def refresh(self) -> None:
        """Puts what the other workers have there into the standing."""
        both = sum(self._read(self._words, self._at)) - self._words[self._mine]
        standing = self.standing
        # Rounded, not cut off: tokens that are below zero for a moment must not take a request with them.
        standing.in_flight_elsewhere = requests = (both + _HALF) // _REQUEST
        standing.pending_tokens_elsewhere = both - requests * _REQUEST


class ModelShare:
    """One model: its replicas' whole load, and who waits for it in which worker.

    A waiting request is published by its rank: the smaller is before. Workers compare ranks, so they must be made the
    same way in all of them, from the band and the time of arrival (`waiting_rank`).
    """

    __slots__ = ("_board", "_counts_at", "_firsts_at", "_look_at", "_mine", "_write", "replicas")

    def __init__(self, board: LoadBoard, seat: int) -> None:
        self.replicas: list[ReplicaShare] = []
        """Those of the newest table; set anew with each."""
        row = board.model_row(seat)
        self._board = board
        self._firsts_at = (row + _FIRST * board.lanes) * _WORD
        self._mine = row + _FIRST * board.lanes + board.lane
        self._counts_at = (row + _COUNTS * board.lanes + board.lane * len(TOTALS)) * _WORD
        self._write = Struct(f"@{len(TOTALS)}q").pack_into
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
        if board.lanes == 1:
            return None
        ranks = board.read_row(board.words, self._firsts_at)
        if not any(ranks):
            return None
        return min(
            ((rank, lane) for lane, rank in enumerate(ranks) if rank and lane != board.lane), default=None
        )

    def publish_counts(self, totals: tuple[int, ...]) -> None:
        """This worker's totals in the order of TOTALS, so that they outlive it."""
        self._write(self._board.words, self._counts_at, *totals)


def waiting_rank(band: int, since: float) -> int:
    """The rank of a request of this band (0 is served first) that has waited since then, in monotonic seconds.

    The clock counts from the machine's start, alike in all its processes: 2^48 ms of it are 8,900 years.
    """
    return (band << 48) + int(since * 1000) + 1


def _size(lanes: int) -> int:
    return (MOST_REPLICAS + MOST_MODELS * _MODEL_ROWS) * lanes * _WORD
