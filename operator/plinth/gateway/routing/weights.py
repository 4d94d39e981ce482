"""Which model takes a request that came by another's name: canary and mirrored traffic. Pure.

Each request draws a ticket in [0, 1) once and keeps it for all its attempts. Tickets are no random numbers: they
fall evenly, so that a canary of 5% gets its requests one by one and not in bursts, and a test can foretell them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from zlib import crc32

from plinth.domain.traffic import TrafficShare

_GOLDEN: Final = 0.6180339887498949
"""Multiples of the golden ratio's fraction fill [0, 1) more evenly than those of any other number."""
_SILVER: Final = 0.41421356237309515
"""The same of the square root of 2: drawn beside the other, the pairs fill the square."""


def ticket(number: int, session: str = "") -> float:
    """The ticket of the request with this number. Those of a session have one: it meets one model for all its life."""
    return crc32(session.encode()) / 2**32 if session else number * _GOLDEN % 1.0


def taker(shares: Sequence[TrafficShare], drawn: float) -> str | None:
    """The model that takes a request with this ticket; None when it stays with the one that was asked."""
    end = 0
    for share in shares:
        end += share.percent
        if drawn * 100 < end:
            return share.model
    return None


def mirrors(shares: Sequence[TrafficShare], number: int) -> list[str]:
    """The models that get a copy of the request with this number, whoever answers it."""
    drawn = number * _SILVER % 1.0 * 100
    return [share.model for share in shares if drawn < share.mirror_percent]
