"""One request of the Messages API, there and back. Pure."""

from __future__ import annotations

import msgspec

from plinth.gateway.protocol.errors import Refusal
from plinth.gateway.surface.chat_stream import ChatStream
from plinth.gateway.surface.messages.answer import error_document, whole_message
from plinth.gateway.surface.messages.request import chat_request
from plinth.gateway.surface.messages.stream import MessageWriter
from plinth.gateway.surface.reading import translated


class MessagesExchange:
    """See `Exchange`."""

    __slots__ = ("_identity", "body", "path")

    def __init__(self, body: bytes, identity: str) -> None:
        self.path = b"/v1/chat/completions"
        self.body = body
        self._identity = identity

    def answer(self, body: bytes) -> bytes:
        """A whole answer."""
        return whole_message(body, self._identity)

    def refusal_body(self, refusal: Refusal, request_id: str) -> bytes:
        """An error."""
        return error_document(refusal, request_id)

    def stream(self) -> ChatStream:
        """A stream."""
        return ChatStream(MessageWriter(self._identity))


def translate_message(body: bytes, *, model: str, identity: str) -> MessagesExchange | Refusal:
    """The exchange for a body; `model` is the engine's name for what the client asked for."""
    return translated(
        body, lambda fields: MessagesExchange(msgspec.json.encode(chat_request(fields, model)), identity)
    )
