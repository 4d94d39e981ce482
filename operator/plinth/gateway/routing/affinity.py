"""Where a conversation was, and where an adapter is loaded: reasons to prefer a replica, in seconds. Pure.

Both are preferences and never fences: a replica too busy by more than the reason is worth is passed over.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeVar

from plinth.gateway.routing.choice import Standing
from plinth.gateway.routing.placement import Prompt

SESSION_SECONDS: Final = 5.0
"""A named session stays where it was until another replica is expected to answer so much sooner: the point at
which llm-d's affinity filter lets go."""
ADAPTER_SECONDS: Final = 0.5
"""Supposed for bringing an adapter of some 100 MB to the accelerator, and for the room it takes from another."""
MOST_SESSIONS: Final = 10_000
MOST_ADAPTERS: Final = 8
"""Adapters supposed at a replica at once. vLLM's `max_loras` is 1 unless set, its CPU cache holds as many."""

T = TypeVar("T")


class Affinity:
    """Remembers the last replica of each session and the last adapters of each replica; both bounded."""

    def __init__(self, *, most_sessions: int = MOST_SESSIONS, most_adapters: int = MOST_ADAPTERS) -> None:
        self._most_sessions = most_sessions
        self._most_adapters = most_adapters
        self._sessions: OrderedDict[str, str] = OrderedDict()
        self._adapters: dict[str, OrderedDict[str, None]] = {}

    def penalty(self, standing: Standing, prompt: Prompt) -> float:
        """Seconds to add to a replica's score; 0 where nothing speaks against it."""
        seconds = 0.0
        if prompt.session:
            home = self._sessions.get(prompt.session)
            if home is not None and home != standing.slot:
                seconds = SESSION_SECONDS
        if prompt.adapter and prompt.adapter not in self._adapters.get(standing.slot, ()):
            seconds += ADAPTER_SECONDS
        return seconds

    def remember(self, slot: str, prompt: Prompt) -> None:
        """A prompt was sent to a replica."""
        if prompt.session:
            _touch(self._sessions, prompt.session, slot, self._most_sessions)
        if prompt.adapter:
            loaded = self._adapters.setdefault(slot, OrderedDict())
            _touch(loaded, prompt.adapter, None, self._most_adapters)

    def leave(self, slot: str) -> None:
        """A replica is gone. Its sessions find out one by one: no replica is at home to them."""
        self._adapters.pop(slot, None)


def _touch(memory: OrderedDict[str, T], key: str, value: T, most: int) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > most:
        memory.popitem(last=False)
