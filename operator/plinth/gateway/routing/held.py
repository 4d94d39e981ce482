"""Requests that wait for room, in the order they came: one queue for each model. Pure; time is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Arrival(Protocol):
    """What the queue needs of a request."""

    number: int
    """Order of arrival, unique in the process."""


T = TypeVar("T", bound=Arrival)


@dataclass(frozen=True)
class HeldLimits:
    """How many requests of one model may wait, and how long, in seconds."""

    requests: int = 1024
    seconds: float = 300.0


class HeldQueue(Generic[T]):
    """First come, first served; a request that comes back after a failed attempt keeps its place."""

    def __init__(self, limits: HeldLimits) -> None:
        self._limits = limits
        self._waiting: dict[int, tuple[T, float]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def is_full(self) -> bool:
        """Whether a new request must be refused."""
        return len(self._waiting) >= self._limits.requests

    def push(self, item: T, now: float) -> None:
        """Holds a request. One that arrived before those waiting (it comes back) goes to its old place."""
        newest = next(reversed(self._waiting), -1)
        self._waiting[item.number] = (item, now)
        if item.number < newest:
            self._waiting = dict(sorted(self._waiting.items()))

    def first(self) -> T | None:
        """The request whose turn it is."""
        return next(iter(self._waiting.values()))[0] if self._waiting else None

    def discard(self, item: T) -> bool:
        """Takes a request out, wherever it stands; False when it was not waiting."""
        return self._waiting.pop(item.number, None) is not None

    def expired(self, now: float) -> list[T]:
        """The requests that have waited too long; they stay until discarded."""
        return [item for item, since in self._waiting.values() if now - since >= self._limits.seconds]

    def everything(self) -> list[T]:
        """All that wait, in order."""
        return [item for item, _ in self._waiting.values()]
