"""One request of the Responses API, there and back. Pure."""

from __future__ import annotations

import msgspec

from plinth.gateway.protocol.errors import Refusal, error_body
from plinth.gateway.surface.chat_stream import ChatStream
from plinth.gateway.surface.reading import Fields, translated
from plinth.gateway.surface.responses.answer import whole_response
from plinth.gateway.surface.responses.document import Frame, echoed
from plinth.gateway.surface.responses.request import chat_request
from plinth.gateway.surface.responses.stream import ResponseWriter


class ResponsesExchange:
    """See `Exchange`."""

    __slots__ = ("_frame", "body", "path")

    def __init__(self, body: bytes, frame: Frame) -> None:
        self.path = b"/v1/chat/completions"
        self.body = body
        self._frame = frame

    def answer(self, body: bytes) -> bytes:
        """A whole answer."""
        return whole_response(body, self._frame)

    def refusal_body(self, refusal: Refusal, _request_id: str) -> bytes:
        """An error: OpenAI's shape is ours."""
        return error_body(refusal)

    def stream(self) -> ChatStream:
        """A stream."""
        return ChatStream(ResponseWriter(self._frame))


def translate_response(
    body: bytes, *, model: str, identity: str, created: int
) -> ResponsesExchange | Refusal:
    """The exchange for a body; `model` is the engine's name for what the client asked for, `created` Unix seconds."""

    def exchange(fields: Fields) -> ResponsesExchange:
        chat = chat_request(fields, model)
        frame = Frame(identity=identity, created=created, asked=echoed(fields))
        return ResponsesExchange(msgspec.json.encode(chat), frame)

    return translated(body, exchange)
