"""Takes a replica's stream of chat chunks apart and has a dialect's writer say it anew. Pure.

One pass: bytes to whole events, events to chunks, chunks to what the model said. A writer holds the state of its
own dialect (open blocks, numbers, ids) and returns bytes; nothing is kept here but an unfinished event.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from plinth.gateway.protocol.errors import Refusal, stream_broken
from plinth.gateway.protocol.unreadable import UNREADABLE
from plinth.gateway.surface.chat import Chat, ChatUsage, FunctionDelta, Said, decode_chat, error_text

_MOST_HELD_BYTES = 4 * 1024 * 1024
"""No engine writes a chunk this long; memory is bounded."""
_DATA = b"data:"
_DONE = b"[DONE]"


class Writer(Protocol):
    """A dialect's side of a stream."""

    def begin(self, model: str) -> bytes:
        """The first event."""

    def thinking(self, text: str) -> bytes:
        """More of what is said before the answer."""

    def text(self, text: str, logprobs: list[msgspec.Raw] | None) -> bytes:
        """More of the answer."""

    def tool(self, call_id: str | None, name: str) -> bytes:
        """A tool call begins."""

    def arguments(self, text: str) -> bytes:
        """More arguments of the call that began last."""

    def finish(self, reason: str, stop: int | str | None, usage: ChatUsage | None) -> bytes:
        """The last events."""

    def fail(self, refusal: Refusal) -> bytes:
        """The last event of a stream that cannot be completed."""


class ChatStream:
    """One stream: `feed` with the replica's bytes, whatever their boundaries, then `end` or `fail`."""

    __slots__ = ("_after_call", "_begun", "_call", "_finish", "_held", "_over", "_stop", "_usage", "_writer")

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._held = b""
        self._begun = False
        self._over = False
        self._call = -1
        """The engine's number of the tool call that is being written; -1 before the first."""
        self._after_call: list[tuple[str | None, str | None]] = []
        """Thinking and text amid a call's arguments, as some of vLLM's tool parsers send: it waits for its end."""
        self._finish: str | None = None
        self._stop: int | str | None = None
        self._usage: ChatUsage | None = None

    def feed(self, data: bytes) -> bytes:
        """The client's events for these bytes."""
        if self._held:
            data = self._held + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, self._held = data.split(b"\n\n")
        out = [self._event(event) for event in events]
        if len(self._held) > _MOST_HELD_BYTES:
            self._held = b""
            out.append(self.fail(stream_broken("an event has no end")))
        return out[0] if len(out) == 1 else b"".join(out)

    def end(self) -> bytes:
        """The replica's stream has ended in peace: says what `[DONE]` would have had said."""
        out = self.feed(b"\n\n") if self._held else b""
        return out + self._close()

    def fail(self, refusal: Refusal) -> bytes:
        """The stream cannot be completed; nothing comes after this."""
        if self._over:
            return b""
        self._over = True
        opening = b"" if self._begun else self._writer.begin("")
        return opening + self._writer.fail(refusal)

    def _event(self, event: bytes) -> bytes:
        if not event.startswith(_DATA) or self._over:
            return b""  # a comment, or words after the end
        payload = event[len(_DATA) :].strip()
        if payload == _DONE:
            return self._close()
        try:
            chunk = decode_chat(payload)
        except UNREADABLE as error:
            return self.fail(stream_broken(f"the replica sent no chat chunk: {error}"))
        if chunk.error is not None:
            return self.fail(stream_broken(error_text(payload)))
        return self._chunk(chunk)

    def _chunk(self, chunk: Chat) -> bytes:
        out = b""
        if not self._begun:
            self._begun = True
            out = self._writer.begin(chunk.model)
        if chunk.usage is not None:
            self._usage = chunk.usage
        if not chunk.choices:
            return out
        choice = chunk.choices[0]
        said = choice.delta
        if said is not None:
            if said.content and self._call < 0 and said.tool_calls is None and said.thinking() is None:
                logprobs = choice.logprobs.content if choice.logprobs is not None else None
                out += self._writer.text(said.content, logprobs)
            else:
                out += self._said(said)
        if choice.finish_reason is not None:
            self._finish, self._stop = choice.finish_reason, choice.stop_reason
        return out

    def _said(self, said: Said) -> bytes:
        """Everything but the usual chunk of text."""
        out = []
        if self._call < 0:
            out.append(self._words(said.thinking(), said.content))
        elif said.content or said.thinking():
            self._after_call.append((said.thinking(), said.content))
        out += [
            self._tool(call.index, call.id, call.function) for call in said.tool_calls or () if call.function
        ]
        return b"".join(out)

    def _words(self, thinking: str | None, text: str | None) -> bytes:
        out = self._writer.thinking(thinking) if thinking else b""
        return out + self._writer.text(text, None) if text else out

    def _tool(self, index: int, call_id: str | None, function: FunctionDelta) -> bytes:
        out = b""
        if self._over:
            return out
        if index != self._call:
            if index < self._call:
                return self.fail(stream_broken("the replica went back to an earlier tool call"))
            self._call = index
            out = self._flush() + self._writer.tool(call_id, function.name or "")
        return out + self._writer.arguments(function.arguments) if function.arguments else out

    def _flush(self) -> bytes:
        """What waited for a call's end."""
        waiting, self._after_call = self._after_call, []
        return b"".join([self._words(thinking, text) for thinking, text in waiting])

    def _close(self) -> bytes:
        if self._over:
            return b""
        if self._finish is None:
            return self.fail(stream_broken("the replica's stream ended without a finish reason"))
        self._over = True
        return self._flush() + self._writer.finish(self._finish, self._stop, self._usage)
