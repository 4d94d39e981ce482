"""A stream of the Messages API: one block open at a time, numbered from 0. Pure.

`message_start`, then for each block `content_block_start`, its deltas, `content_block_stop`, at last
`message_delta` with the reason and the usage, and `message_stop`.
"""

from __future__ import annotations

import msgspec

from plinth.gateway.protocol.errors import Refusal
from plinth.gateway.surface.chat import ChatUsage
from plinth.gateway.surface.messages.answer import error_document, stop_of, tool_id, usage_of
from plinth.gateway.surface.reading import Fields

_encode = msgspec.json.Encoder().encode
_TEXT = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
    b'"delta":{"type":"text_delta","text":%b}}\n\n'
)
_THINKING = "thinking"
_WORDS = "text"
_TOOL = "tool_use"


class MessageWriter:
    """The client's side of one stream."""

    __slots__ = ("_block", "_called", "_identity", "_index")

    def __init__(self, identity: str) -> None:
        self._identity = identity
        self._index = -1
        self._block = ""
        """The kind of the open block; empty for none."""
        self._called = False

    def begin(self, model: str) -> bytes:
        """`message_start`. Input tokens are known at the end only: clients take `message_delta`'s."""
        message: Fields = {
            "id": f"msg_{self._identity}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        return _event("message_start", {"message": message})

    def thinking(self, text: str) -> bytes:
        """More thinking."""
        opening = self._open(_THINKING, {"type": _THINKING, "thinking": "", "signature": ""})
        return opening + self._delta({"type": "thinking_delta", "thinking": text})

    def text(self, text: str, _logprobs: list[msgspec.Raw] | None = None) -> bytes:
        """More text; the usual event, hence written without a dict. This API has no log probabilities."""
        if self._block == _WORDS:
            return _TEXT % (self._index, _encode(text))
        return self._open(_WORDS, {"type": _WORDS, "text": ""}) + _TEXT % (self._index, _encode(text))

    def tool(self, call_id: str | None, name: str) -> bytes:
        """A call begins: a block of its own."""
        closing = self._close()
        self._called = True
        call = {
            "type": _TOOL,
            "id": call_id or tool_id(self._identity, self._index + 1),
            "name": name,
            "input": {},
        }
        return closing + self._open(_TOOL, call)

    def arguments(self, text: str) -> bytes:
        """More arguments of the open call."""
        return self._delta({"type": "input_json_delta", "partial_json": text})

    def finish(self, reason: str, stop: int | str | None, usage: ChatUsage | None) -> bytes:
        """Closes what is open and says why and how much."""
        opening = b"" if self._index >= 0 else self._open(_WORDS, {"type": _WORDS, "text": ""})
        kind, sequence = stop_of(reason, stop, called=self._called)
        delta = {"stop_reason": kind, "stop_sequence": sequence}
        return (
            opening
            + self._close()
            + _event("message_delta", {"delta": delta, "usage": usage_of(usage)})
            + _event("message_stop", {})
        )

    def fail(self, refusal: Refusal) -> bytes:
        """One `error` event."""
        return b"event: error\ndata: " + error_document(refusal, None) + b"\n\n"

    def _open(self, kind: str, block: Fields) -> bytes:
        """Opens a block, unless one of this kind is open."""
        if self._block == kind:
            return b""
        closing = self._close()
        self._block = kind
        self._index += 1
        return closing + _event("content_block_start", {"index": self._index, "content_block": block})

    def _close(self) -> bytes:
        """Ends the open block."""
        if not self._block:
            return b""
        self._block = ""
        return _event("content_block_stop", {"index": self._index})

    def _delta(self, delta: Fields) -> bytes:
        return _event("content_block_delta", {"index": self._index, "delta": delta})


def _event(name: str, fields: Fields) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode({"type": name} | fields))
