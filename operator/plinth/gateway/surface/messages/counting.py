"""Counting the tokens of a Messages request: both engines take it as it is; what they refuse is said in its shape. Pure."""

from __future__ import annotations

from plinth.gateway.protocol.errors import Refusal
from plinth.gateway.surface.messages.answer import error_document
from plinth.gateway.surface.messages.request import chat_request
from plinth.gateway.surface.reading import translated
from plinth.gateway.surface.renaming import with_model

COUNT_TOKENS = "/v1/messages/count_tokens"


class CountingExchange:
    """See `Exchange`."""

    __slots__ = ("body", "path")

    def __init__(self, body: bytes) -> None:
        self.path = COUNT_TOKENS.encode()
        self.body = body

    def answer(self, body: bytes) -> bytes:
        """The engine's count."""
        return body

    def refusal_body(self, refusal: Refusal, request_id: str) -> bytes:
        """An error."""
        return error_document(refusal, request_id)

    def stream(self) -> None:
        """There are no streams."""


def translate_counting(body: bytes, *, model: str) -> CountingExchange | Refusal:
    """The exchange for a body; what could not be sent as a message is refused in the same words."""
    message = translated(body, lambda fields: chat_request(fields | {"max_tokens": 1}, model))
    if isinstance(message, Refusal):
        return message
    renamed = with_model(body, model)
    return renamed if isinstance(renamed, Refusal) else CountingExchange(renamed)
