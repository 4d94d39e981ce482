"""A stream of the Responses API. Pure.

`response.created`, `response.in_progress`; for each item `output_item.added`, its parts and deltas,
`output_item.done`; at last `response.completed`, `incomplete` or `failed` with the whole response in it. Every
event carries a sequence number. Thinking, text and calls come one after the other: one item is open at a time.
"""

from __future__ import annotations

import msgspec

from plinth.gateway.protocol.errors import Refusal
from plinth.gateway.surface.chat import ChatUsage
from plinth.gateway.surface.reading import Fields
from plinth.gateway.surface.responses.document import Frame
from plinth.gateway.surface.responses.open_item import Call, OpenItem, Text, Thinking

_encode = msgspec.json.Encoder().encode
_THINKING = (
    b'event: response.reasoning_text.delta\ndata: {"type":"response.reasoning_text.delta","sequence_number":%d,'
    b'"item_id":"%b","output_index":%d,"content_index":0,"delta":%b}\n\n'
)
_ARGUMENTS = (
    b'event: response.function_call_arguments.delta\ndata: {"type":"response.function_call_arguments.delta",'
    b'"sequence_number":%d,"item_id":"%b","output_index":%d,"delta":%b}\n\n'
)
_TEXT = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":%d,'
    b'"item_id":"%b","output_index":%d,"content_index":0,"delta":%b,"logprobs":%b}\n\n'
)


class ResponseWriter:
    """The client's side of one stream."""

    __slots__ = ("_done", "_frame", "_item", "_model", "_sequence")

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._model = ""
        self._sequence = -1
        self._item: OpenItem | None = None
        self._done: list[Fields] = []
        """Items that have ended."""

    def begin(self, model: str) -> bytes:
        """The response exists."""
        self._model = model
        response = self._frame.response(model, [])
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def thinking(self, text: str) -> bytes:
        """More thinking."""
        item, opening = self._item, b""
        if not isinstance(item, Thinking):
            item = Thinking(self._frame.item_id("rs", self._next_index()))
            opening = self._open(item)
        item.pieces.append(text)
        self._sequence += 1
        return opening + _THINKING % (self._sequence, item.name, len(self._done), _encode(text))

    def text(self, text: str, logprobs: list[msgspec.Raw] | None) -> bytes:
        """More text; the usual event, hence written without a dict."""
        item, opening = self._item, b""
        if not isinstance(item, Text):
            item = Text(self._frame.item_id("msg", self._next_index()))
            opening = self._open(item)
        item.pieces.append(text)
        if logprobs:
            item.logprobs += logprobs
        self._sequence += 1
        return opening + _TEXT % (
            self._sequence,
            item.name,
            len(self._done),
            _encode(text),
            _encode(logprobs) if logprobs else b"[]",
        )

    def tool(self, call_id: str | None, name: str) -> bytes:
        """A call begins: an item of its own."""
        closing = self._close("completed")
        at = len(self._done)
        call = Call(
            self._frame.item_id("fc", at),
            call_id=call_id or self._frame.item_id("call", at),
            function=name,
        )
        return closing + self._open(call)

    def arguments(self, text: str) -> bytes:
        """More arguments of the open call."""
        item = self._item
        if not isinstance(item, Call):
            return b""
        item.pieces.append(text)
        self._sequence += 1
        return _ARGUMENTS % (self._sequence, item.name, len(self._done), _encode(text))

    def finish(self, reason: str, _stop: int | str | None, usage: ChatUsage | None) -> bytes:
        """The whole response."""
        opening = b""
        if self._item is None and not self._done:
            opening = self._open(Text(self._frame.item_id("msg", 0)))
        closing = self._close("incomplete" if reason == "length" else "completed")
        response = self._frame.ended(self._model, self._done, reason, usage)
        return opening + closing + self._event(f"response.{response['status']}", response=response)

    def fail(self, refusal: Refusal) -> bytes:
        """The response as far as it came, and why it went no further."""
        output = self._done + ([self._item.document("incomplete")] if self._item is not None else [])
        error = {"code": "server_error", "message": refusal.message}
        response = self._frame.response(self._model, output, status="failed", error=error)
        return self._event("response.failed", response=response)

    def _next_index(self) -> int:
        return len(self._done) + (self._item is not None)

    def _open(self, item: OpenItem) -> bytes:
        """Begins an item, after the one before it has ended."""
        out = self._close("completed")
        self._item = item
        out += self._event("response.output_item.added", output_index=len(self._done), item=item.begun())
        part = item.part()
        if part is not None:
            out += self._part_event("response.content_part.added", item, part=part)
        return out

    def _close(self, status: str) -> bytes:
        item = self._item
        if item is None:
            return b""
        kind, fields = item.done_event()
        out = self._part_event(kind, item, **fields)
        part = item.part()
        if part is not None:
            out += self._part_event("response.content_part.done", item, part=part)
        document = item.document(status)
        out += self._event("response.output_item.done", output_index=len(self._done), item=document)
        self._item = None
        self._done.append(document)
        return out

    def _part_event(self, kind: str, item: OpenItem, **fields: object) -> bytes:
        if item.part() is not None:
            fields["content_index"] = 0
        return self._event(kind, item_id=item.item_id, output_index=len(self._done), **fields)

    def _event(self, kind: str, **fields: object) -> bytes:
        self._sequence += 1
        document = {"type": kind, "sequence_number": self._sequence, **fields}
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode(document))
