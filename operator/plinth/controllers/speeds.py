"""Cuts stretches of steady load out of the gateway's reports: how fast replicas really are, for `domain.corrections`.

A stretch is ten seconds in which the same replicas of one revision answered, and the requests in flight were never none
and never more than twice their fewest. Whatever breaks one off begins the next: a replica more or less, another
gateway, a missing report, a pause.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from plinth.domain.corrections import SpeedStretch
from plinth.domain.fleet import SlotName
from plinth.domain.traffic import ModelLoad

STRETCH_SECONDS = 10.0
KEPT_STRETCHES = 30
"""The last five minutes of load."""


@dataclass
class _Begun:
    """A stretch under way."""

    at: float
    tokens: int
    """The model's total when it began."""
    replicas: frozenset[SlotName]
    in_flight: list[int] = field(default_factory=list)
    """Of each report since."""


@dataclass
class SpeedWatch:
    """One model's stretches."""

    stretches: tuple[SpeedStretch, ...] = ()
    _begun: _Begun | None = None

    def break_off(self) -> None:
        """What was under way is no stretch: something is not known."""
        self._begun = None

    def take(self, load: ModelLoad, replicas: frozenset[SlotName], at: float) -> None:
        """Note one report about a model, with the replicas that answer for it."""
        begun = self._begun
        if len({name.revision for name in replicas}) != 1:
            self._begun = None
            return
        if begun is None or begun.replicas != replicas or not _is_steady([*begun.in_flight, load.in_flight]):
            self._begun = _Begun(at, load.output_tokens_total, replicas, [load.in_flight])
            return
        begun.in_flight.append(load.in_flight)
        if at - begun.at >= STRETCH_SECONDS:
            self._close(begun, load, at)
            self._begun = _Begun(at, load.output_tokens_total, replicas, [load.in_flight])

    def _close(self, begun: _Begun, load: ModelLoad, at: float) -> None:
        tokens, count = load.output_tokens_total - begun.tokens, len(begun.replicas)
        if tokens <= 0:
            return
        stretch = SpeedStretch(
            revision=next(iter(begun.replicas)).revision,
            in_flight=round(sum(begun.in_flight) / len(begun.in_flight) / count),
            tokens_per_second=round(tokens / (at - begun.at) / count),
        )
        self.stretches = (*self.stretches, stretch)[-KEPT_STRETCHES:]


def _is_steady(in_flight: list[int]) -> bool:
    return max(in_flight) <= 2 * min(in_flight)
