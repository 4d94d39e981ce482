"""How requests are shared out between a model's revisions: canary and mirrored traffic. Pure.

Each request draws a ticket in [0, 1) once and keeps it for all its attempts. Tickets are no random numbers: they
fall evenly, so that a canary of 5% gets its requests one by one and not in bursts, and a test can foretell them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zlib import crc32

from plinth.gateway.routing.choice import Standing

_GOLDEN = 0.6180339887498949
"""Multiples of the golden ratio's fraction fill [0, 1) more evenly than those of any other number."""
_SILVER = 0.41421356237309515
"""The same of the square root of 2: drawn beside the other, the pairs fill the square."""


def ticket(number: int) -> float:
    """The ticket of the request with this number."""
    return number * _GOLDEN % 1.0


def session_ticket(session: str) -> float:
    """The ticket of all requests of a session: it meets one revision, however long it lasts."""
    return crc32(session.encode()) / 2**32


def is_mirrored(number: int, share: float) -> bool:
    """Whether a copy of this request goes to the revision that is only watched; `share` is a fraction of 1.

    Which request is mirrored has nothing to do with the revision that answers it.
    """
    return number * _SILVER % 1.0 < share


class RevisionShares:
    """Weights of revisions, as in a route table: parts of their sum. A revision that is not named gets nothing."""

    def __init__(self, weights: Mapping[str, int]) -> None:
        total = sum(weights.values())
        if total <= 0:
            raise ValueError(f"weights must add up to more than 0, not {dict(weights)}")
        self._weights = dict(weights)
        self._main = max(weights, key=lambda name: (weights[name], name))
        self._ends: list[tuple[float, str]] = []
        end = 0
        for name in sorted(weights):
            end += weights[name]
            if weights[name]:
                self._ends.append((end / total, name))

    def drawn(self, ticket: float) -> str:
        """The revision that a ticket means."""
        return next((name for end, name in self._ends if ticket < end), self._main)

    def narrow(
        self, standings: Sequence[Standing], roomy: Sequence[Standing], ticket: float
    ) -> list[Standing]:
        """Of the replicas with room, those that this request may go to; none when it should wait.

        When its own revision is full it goes to the main one, the one of the most weight. The other way about a
        busy main revision would flood its canary: so a request drawn for it waits, while one of its replicas
        lives. Only when none does may all the others serve.
        """
        wanted = self.drawn(ticket)
        for name in (wanted, self._main):
            found = [item for item in roomy if item.revision == name]
            if found:
                return found
        if any(item.available and item.revision == self._main for item in standings):
            return []
        return [item for item in roomy if self._weights.get(item.revision)]
