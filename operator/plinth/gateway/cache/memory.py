"""Answers kept in the process: bounded in bytes, the least recently used go first. Pure; time is an argument."""

from __future__ import annotations

from collections import OrderedDict

from plinth.gateway.cache.answer import Answer


class AnswerMemory:
    """By key, until each one's time is up. Times are monotonic seconds."""

    __slots__ = ("_answer_bytes", "_kept", "_most_bytes", "weight")

    def __init__(self, *, most_bytes: int, answer_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._answer_bytes = answer_bytes
        self._kept: OrderedDict[bytes, tuple[Answer, float]] = OrderedDict()
        self.weight = 0
        """Bytes kept now."""

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: bytes, now: float) -> tuple[Answer, float] | None:
        """The answer and the seconds that it stays; it is the last to go from now on."""
        found = self._kept.get(key)
        if found is None:
            return None
        answer, until = found
        if now >= until:
            self.forget(key)
            return None
        self._kept.move_to_end(key)
        return answer, until - now

    def keep(self, key: bytes, answer: Answer, seconds: float, now: float) -> None:
        """Keeps an answer for so long, unless it is larger than one may be."""
        self.forget(key)
        if answer.weight > self._answer_bytes or seconds <= 0:
            return
        self._kept[key] = answer, now + seconds
        self.weight += answer.weight
        while self.weight > self._most_bytes:
            _, (gone, _) = self._kept.popitem(last=False)
            self.weight -= gone.weight

    def forget(self, key: bytes) -> None:
        """Drops an answer, if there is one."""
        found = self._kept.pop(key, None)
        if found is not None:
            self.weight -= found[0].weight
