"""The ways in which a model's replica may be chosen, by name. Pure.

A strategy picks among replicas that all may and can take the prompt. It changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import inf
from typing import Final, Protocol

from plinth.domain.traffic import Strategy
from plinth.gateway.routing.affinity import Affinity
from plinth.gateway.routing.choice import Standing
from plinth.gateway.routing.placement import Prompt
from plinth.gateway.routing.ring import PrefixRing
from plinth.gateway.routing.scores import expected_ttft, least_load, predicted_latency

Reach = dict[int, int]
"""Blocks of the prompt that each replica should hold, by its bit."""

UPPER_BANDS: Final = frozenset({"system", "interactive"})
LOWEST_BAND: Final = "bulk"
ALIKE: Final = 0.8
"""Replicas that read at this part of the fastest one's rate count as fast as it."""


class Picker(Protocol):
    """A strategy at work."""

    __slots__ = ()

    def pick(
        self, roomy: Sequence[Standing], prompt: Prompt, reach: Reach, avoid: Collection[str]
    ) -> Standing:
        """One of the replicas given, of which there is at least one."""


class Cheapest(Picker):
    """The replica with the lowest cost, preferences for session and adapter added."""

    def __init__(self, affinity: Affinity) -> None:
        self._affinity = affinity

    def cost(self, standing: Standing, prompt: Prompt, uncached: int) -> float:  # noqa: ARG002 - others look at it
        """Seconds that it would cost to give the prompt to a replica that has to read so many tokens of it."""
        return expected_ttft(standing, uncached)

    def pick(
        self, roomy: Sequence[Standing], prompt: Prompt, reach: Reach, avoid: Collection[str]
    ) -> Standing:
        """Equal scores: the slot's name decides, so that two gateways with the same view choose the same."""
        if avoid:
            roomy = [item for item in roomy if item.slot not in avoid] or roomy
        prefers = bool(prompt.session or prompt.adapter)
        best, least = roomy[0], inf
        for item in roomy:
            uncached = prompt.uncached_tokens(reach.get(item.bit, 0)) if reach else prompt.tokens
            cost = self.cost(item, prompt, uncached)
            if prefers:
                cost += self._affinity.penalty(item, prompt)
            if cost < least or (cost == least and item.slot < best.slot):
                best, least = item, cost
        return best


class LowestLatency(Cheapest):
    """By the whole answer."""

    def cost(self, standing: Standing, prompt: Prompt, uncached: int) -> float:
        """See `scores`."""
        return predicted_latency(standing, prompt, uncached)


class LeastLoad(Cheapest):
    """By what lies ahead, whatever caches hold."""

    def cost(self, standing: Standing, prompt: Prompt, uncached: int) -> float:  # noqa: ARG002 - a cost's form
        """See `scores`."""
        return least_load(standing, prompt)


class PrefixHash(Picker):
    """Stateless: prompts with a common start meet; prompts shorter than a block go by load."""

    def __init__(self, slots: Collection[str], affinity: Affinity) -> None:
        self._ring = PrefixRing(slots)
        self._short = LeastLoad(affinity)

    def pick(
        self, roomy: Sequence[Standing], prompt: Prompt, reach: Reach, avoid: Collection[str]
    ) -> Standing:
        """See `PrefixRing.choose`."""
        if not prompt.blocks:
            return self._short.pick(roomy, prompt, reach, avoid)
        untried = [item for item in roomy if item.slot not in avoid]
        return self._ring.choose(untried or roomy, prompt.blocks)


class FastestFirst(Picker):
    """For pools of unlike accelerators: the upper bands go by whole latency, bulk leaves the fastest alone.

    Between them, and where all replicas are alike, the least expected time to first token decides.
    """

    def __init__(self, affinity: Affinity) -> None:
        self._upper = LowestLatency(affinity)
        self._plain = Cheapest(affinity)

    def pick(
        self, roomy: Sequence[Standing], prompt: Prompt, reach: Reach, avoid: Collection[str]
    ) -> Standing:
        """Bulk gets a fast replica only when no other has room."""
        if prompt.band in UPPER_BANDS:
            return self._upper.pick(roomy, prompt, reach, avoid)
        if prompt.band == LOWEST_BAND:
            fast = ALIKE * max(item.pace.rate for item in roomy)
            roomy = [item for item in roomy if item.pace.rate < fast] or roomy
        return self._plain.pick(roomy, prompt, reach, avoid)


def make_picker(strategy: Strategy, slots: Collection[str], affinity: Affinity) -> Picker:
    """The strategy for a set of slots."""
    match strategy:
        case Strategy.LEAST_LOAD:
            return LeastLoad(affinity)
        case Strategy.LOWEST_LATENCY:
            return LowestLatency(affinity)
        case Strategy.PREFIX_HASH:
            return PrefixHash(slots, affinity)
        case Strategy.FASTEST_FIRST:
            return FastestFirst(affinity)
    return Cheapest(affinity)
