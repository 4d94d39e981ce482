"""What a worker and its parent say to each other beyond the control protocol. Pure.

Their channel carries the control protocol's lines: tables and orders to the worker, load reports to the parent. Between
them stand the lines below, in the same form. Lines of a type that the parent does not know go to every worker as they
came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec


class Place(msgspec.Struct, frozen=True):
    """What the parent gives a new worker, as one argument: numbers of file descriptors that it inherits."""

    lane: int
    """Its own in the shared memory, of so many `lanes`."""
    lanes: int
    control: int
    """One end of the channel."""
    listener: int
    """Listens already; the parent holds it too, so that no connection is lost between a worker and the next."""
    memory: int
    """Loads and totals."""
    news: int
    """More memory: what was sent where."""
    wakes: tuple[int, ...]
    """By lane."""
    counters: str
    """Path of the socket where limits are counted for all workers; empty where Redis does that."""

    def to_argument(self) -> str:
        """For the command line."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_argument(cls, text: str) -> Place:
        """As `to_argument` wrote it; raises ValueError."""
        return msgspec.json.decode(text, type=cls)


class Seats(msgspec.Struct, frozen=True, tag="seats"):
    """To the workers, before each table that needs it. Who finds no seat counts for itself."""

    replicas: Mapping[str, int]
    """By `place_of`."""
    models: Mapping[str, int]


class Listen(msgspec.Struct, frozen=True, tag="listen"):
    """To a worker: all that is known has been told, accept clients."""


class Listening(msgspec.Struct, frozen=True, tag="listening"):
    """From a worker: it does."""


class Scrape(msgspec.Struct, frozen=True, tag="scrape"):
    """From a worker that is asked for metrics: what have all counted? To a worker: what have you?"""

    number: int


class Exposition(msgspec.Struct, frozen=True, tag="exposition"):
    """The answer, in Prometheus' text format."""

    number: int
    text: str


Line = Seats | Listen | Listening | Scrape | Exposition


class _Tag(msgspec.Struct):
    type: str


_TAG: Final = msgspec.json.Decoder(_Tag)
_LINE: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
_TAGS: Final = {"seats", "listen", "listening", "scrape", "exposition"}


def encode(line: Line) -> bytes:
    """The line, newline included."""
    return msgspec.json.encode(line) + b"\n"


def tag_of(line: bytes) -> str:
    """The type of any line; empty when it has none."""
    try:
        return _TAG.decode(line).type
    except msgspec.MsgspecError:
        return ""


def decode(line: bytes) -> Line | None:
    """The line, if it is one of these; raises ValueError for one that is broken."""
    return _LINE.decode(line) if tag_of(line) in _TAGS else None
