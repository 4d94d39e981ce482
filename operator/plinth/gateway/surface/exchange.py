"""The seam between the data path and a dialect: one request's translation, there and back. Pure.

The data path makes one Exchange for a request on a translated path, sends `body` to a replica's `path`, and asks
it for everything that the client gets: `answer` for a whole answer, `stream()` for a stream, `refusal_body` for
every error. A request in the engines' own dialect has none, and costs nothing.
"""

from __future__ import annotations

from typing import Protocol

from plinth.gateway.protocol.errors import Refusal


class StreamTranslation(Protocol):
    """One stream of chat chunks on its way to a client of another dialect."""

    def feed(self, data: bytes) -> bytes:
        """The client's events for some bytes of the replica's."""

    def end(self) -> bytes:
        """What is still owed when the replica's stream has ended in peace."""

    def fail(self, refusal: Refusal) -> bytes:
        """The event that ends a stream which cannot be completed."""


class Exchange(Protocol):
    """One request that is translated."""

    path: bytes
    """Where replicas take the request."""
    body: bytes
    """What they get."""

    def answer(self, body: bytes) -> bytes:
        """The client's body for a replica's whole one with status 200; raises TranslationError."""

    def refusal_body(self, refusal: Refusal, request_id: str) -> bytes:
        """An error in the client's shape, ours or (by `engine_refusal`) a replica's."""

    def stream(self) -> StreamTranslation | None:
        """For a replica's event stream; None where the endpoint has no streams."""
