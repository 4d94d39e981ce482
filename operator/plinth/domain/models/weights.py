"""The smallest thing that is counted: some weights of one part of a model, and over how many ranks they can lie."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from plinth.domain.quantities import ceil_div

ANY_RANKS = 0
"""Tensor parallelism splits these weights as often as it likes."""
WHOLE = 1
"""Every rank holds all of these weights."""


class Part(StrEnum):
    """The parts that quantisation, sharding and checkpoints tell apart."""

    EMBEDDING = "embedding"
    HEAD = "head"
    """The projection to the vocabulary; absent where it is tied to the embedding."""
    ATTENTION = "attention"
    """Also the mixers of linear layers."""
    FEED_FORWARD = "feedForward"
    SHARED_EXPERTS = "sharedExperts"
    EXPERTS = "experts"
    ROUTER = "router"
    VISION = "vision"
    """The tower and its projector."""
    VECTORS = "vectors"
    """Norms, biases, positions: small, and never quantised."""


class Weights(NamedTuple):
    """Weights that are split and stored alike."""

    part: Part
    elements: int
    most_ranks: int = ANY_RANKS
    """Tensor parallelism splits them over at most so many ranks and replicates them beyond (K and V: the KV heads)."""
    experts: int = 0
    """They are so many experts' weights; 0 for weights that every token passes through."""
    chosen: int = 0
    """How many of these experts a token passes through."""

    @property
    def active_elements(self) -> int:
        """How many elements one token passes through."""
        return self.elements * self.chosen // self.experts if self.experts else self.elements

    def on_a_rank(self, *, tensor: int, expert: int) -> int:
        """How many elements the fullest rank holds: experts lie whole on `expert` ranks where that is above 1."""
        if self.experts and expert > 1:
            return self.elements // self.experts * ceil_div(self.experts, expert)
        ways = tensor if self.most_ranks == ANY_RANKS else min(tensor, self.most_ranks)
        return ceil_div(self.elements, ways)
