"""The metrics of all workers, which only their parent knows: the one answer of the gateway's own that takes a moment."""

from __future__ import annotations

from collections.abc import Callable

from plinth.gateway.server.local import METRICS, Local
from plinth.gateway.server.peers import Peers


class Scrape:
    """Attends a client until the parent has answered."""

    __slots__ = ("_gone", "_peers")

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._gone = False

    async def run(self, answer: Callable[[Local], None]) -> None:
        """Asks, and hands the answer over unless the client has gone."""
        text = await self._peers.exposition()
        if not self._gone:
            answer((200, METRICS, text.encode()))

    def on_client_gone(self) -> None:
        """Nobody waits any more."""
        self._gone = True

    def on_client_drained(self) -> None:
        """Nothing was sent yet."""

    def check(self, now: float) -> None:
        """The parent answers within a time limit of its own."""
