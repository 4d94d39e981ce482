"""Where one replica's engine computes: its own node with the accelerators it has there, and further nodes if it spans several.

The replica and its engines know of Ray only what stands here; `plinth.engine.further_nodes` is the Ray behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import SecretStr

from plinth.engine.accelerators import NO_ACCELERATORS, NodeAccelerators
from plinth.engine.network import LOOPBACK
from plinth.engine.seam import LocalModel, Progress

Fetch = Callable[[SecretStr | None, Progress], LocalModel]
"""Finds the model's files; blocks. Raises SourceError."""


@dataclass(frozen=True, kw_only=True)
class NodeRank:
    """One node's place in an engine that spans several, as vLLM counts them."""

    nodes: int
    rank: int
    """0 is the replica's own node."""
    address: str
    """Of rank 0, where all meet."""
    port: int


class FurtherNodes(Protocol):
    """The nodes of a replica beside its own, in the order of its stages. All but the last two methods block."""

    def begin(self, token: SecretStr | None) -> None:
        """Have each fetch the model; returns at once. Raises EngineError: they cannot be had."""

    def fetched(self) -> None:
        """Return when each has it. Raises SourceError, EngineError."""

    def start(self, ranks: Sequence[NodeRank]) -> None:
        """Have each start its part of the engine; returns at once."""

    @property
    def accelerators(self) -> tuple[NodeAccelerators, ...]:
        """What each has, once the model is fetched."""

    async def until_dead(self) -> str:
        """Return, with the cause, when any part has ended."""

    def close(self) -> None:
        """End every part; safe at any time, also twice."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """All of one replica's place."""

    here: NodeAccelerators = NO_ACCELERATORS
    address: str = LOOPBACK
    """Where the further nodes reach this one."""
    further: FurtherNodes | None = None
    nodes: int = 1

    def fetching(self, fetch: Fetch) -> Fetch:
        """The same on every node at once."""
        further = self.further
        if further is None:
            return fetch

        def fetch_everywhere(token: SecretStr | None, progress: Progress) -> LocalModel:
            further.begin(token)
            model = fetch(token, progress)
            progress.saying(f"fetching the model to all {self.nodes} nodes of the replica")
            further.fetched()
            return model

        return fetch_everywhere

    def rank(self, rank: int, port: int) -> NodeRank:
        """One node's part of the engine that meets here."""
        return NodeRank(nodes=self.nodes, rank=rank, address=self.address, port=port)


ALONE = Place()
"""A replica that nobody gave a place: on this machine, with whatever its environment shows."""
