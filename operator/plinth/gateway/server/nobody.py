"""The client of an answer that nobody reads: a mirrored copy's, or one whose client has gone while others share it."""

from __future__ import annotations

from plinth.gateway.limits.answers import Header
from plinth.gateway.protocol.errors import Refusal
from plinth.gateway.server.answer import Attended, Client


class Nobody(Client):
    """Takes everything and keeps nothing."""

    def attend(self, call: Attended) -> None:
        """Nobody hangs up, nobody is slow."""

    def write(self, data: bytes) -> None:
        """Bytes of the answer."""

    def is_slow(self) -> bool:
        """Never: there is nobody to wait for."""
        return False

    def answer_refusal(self, refusal: Refusal, headers: tuple[Header, ...] = (), body: bytes = b"") -> None:
        """The call is over."""

    def finish(self, *, keep_alive: bool) -> None:
        """The call is over."""

    def abort(self) -> None:
        """The call is over."""
