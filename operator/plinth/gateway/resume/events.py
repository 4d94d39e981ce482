"""Edits and records each event between the replica and the client: the one step of resuming on the hot path. Pure.

Events of a stream differ in little: the same bytes, a JSON string, the same bytes, and with vLLM the token ids. So the
first event of a kind is decoded to learn where these stand, and the next ones are cut by comparing bytes. A quote
inside a JSON string is escaped, so the bytes after the string cannot be met within it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

import msgspec

from plinth.gateway.protocol.unreadable import UNREADABLE
from plinth.gateway.resume.ledger import TOOL_CALLS, Ledger, Run, StreamHead, text_parts
from plinth.gateway.resume.shapes import Choice, ErrorEvent, Event

_IDS: Final = b'"token_ids":['
_PROMPT_IDS: Final = b'"prompt_token_ids":['
_END: Final = b"\n\n"
_NEWLINE: Final = 10
DONE: Final = b"data: [DONE]\n\n"
_NO_SHAPE: Final = b"data: [DONE]\n"
"""For `_before` and `_after` while nothing is learnt: no event with text begins so."""
_OF_ARRAYS: Final = b"0123456789,"


_EVENT: Final = msgspec.json.Decoder(Event)
_ERROR: Final = msgspec.json.Decoder(ErrorEvent)


class Splice(ABC):
    """What stands between a replica and the client: the editor at the first replica, something else at later ones."""

    __slots__ = ("failure", "ledger")

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.failure: str | None = None
        """Why nothing more of this replica's answer can be passed on."""

    @abstractmethod
    def feed(self, data: bytes) -> bytes:
        """Whole events in, the client's bytes out; nothing more once `failure` is set."""


class EventEditor(Splice):
    """One stream from its first replica: whole events in, what the client gets out."""

    __slots__ = (
        "_after",
        "_before",
        "_hides_ids",
        "_hides_usage",
        "_named",
        "_run",
        "_tail",
    )

    def __init__(self, *, hides_ids: bool, hides_usage: bool) -> None:
        super().__init__(Ledger())
        self._hides_ids = hides_ids
        self._hides_usage = hides_usage
        self._before = self._after = _NO_SHAPE
        self._tail = b""
        self._named = False
        self._run = Run("")

    def feed(self, data: bytes) -> bytes:
        """The bytes for the client. `data` holds whole events, as EventScan gives them.

        An engine's own word that it failed becomes `failure`; the client does not get it, and may get the rest from
        elsewhere.
        """
        before = self._before
        if data.startswith(before) and data.find(b"\n") == len(data) - 2:  # one event, of one line
            start = len(before)
            end = data.find(self._after, start)
            if end > 0:
                known = self._cut_named(data, start, end) if self._named else self._cut(data, start, end)
                if known is not None:
                    return known
        if self.failure is not None or not data:
            return b""
        if not data.endswith(_END):
            self.ledger.spoiled = "its events do not end as expected"
            return data
        if data.find(_END) == len(data) - 2 and data[0] != _NEWLINE:
            return self._read(data)
        events = [event.lstrip(b"\n") for event in data.split(_END)]
        return b"".join([self.feed(event + _END) for event in events if event])

    def _cut_named(self, data: bytes, start: int, end: int) -> bytes | None:
        """An event of a known shape with token ids."""
        ids = end + len(self._after)
        close = data.find(b"]", ids)
        if data[close + 1 :] != self._tail or not _is_string(data[start:end]):
            return None
        run = self._run
        run.texts += data[start - 1 : end + 1]
        run.texts += b","
        run.ids += data[ids - 1 : close + 1]
        run.ids += b","
        return b"%bnull%b" % (data[: ids - 1], self._tail) if self._hides_ids else data

    def _cut(self, data: bytes, start: int, end: int) -> bytes | None:
        """An event of a known shape without ids: it goes on as it is."""
        if end + len(self._after) != len(data) or not _is_string(data[start:end]):
            return None
        run = self._run
        run.texts += data[start - 1 : end + 1]
        run.texts += b","
        return data

    def _read(self, data: bytes) -> bytes:
        """Any event, decoded; learns its shape."""
        if data == DONE:
            self.ledger.finished = True
            return data
        if data.find(b"\n") != len(data) - 2:
            self.ledger.spoiled = "an event has several lines"
            return data
        if data.startswith(b":"):
            return data  # a comment: it carries nothing
        try:
            return self._take(data, _EVENT.decode(data[5:]))
        except UNREADABLE:
            return self._misread(data)

    def _take(self, data: bytes, event: Event) -> bytes:
        ledger = self.ledger
        if event.usage is not None:
            ledger.usage = event.usage
        if not event.choices:
            ledger.usage_told = not self._hides_usage
            return data if ledger.usage_told else b""
        if len(event.choices) > 1 or event.choices[0].index:
            ledger.spoiled = "it holds several answers"
            return data
        if ledger.head is None:
            ledger.head = StreamHead(
                event.id, event.object, event.created, event.model, event.system_fingerprint
            )
        return self._record(data, event.choices[0])

    def _misread(self, data: bytes) -> bytes:
        try:
            error = _ERROR.decode(data[5:])
        except UNREADABLE:
            self.ledger.spoiled = "an event is not understood"
            return data
        self.failure = bytes(error.error).decode(errors="replace")[:500]
        self._before = _NO_SHAPE  # nothing passes any more
        return b""

    def _record(self, data: bytes, choice: Choice) -> bytes:
        ledger = self.ledger
        edited, prompt_ids, _ = _take_array(data, _PROMPT_IDS)
        edited, ids, ids_at = _take_array(edited, _IDS)
        if prompt_ids:
            ledger.prompt_ids = prompt_ids
        parts = text_parts(choice.text, choice.delta)
        ledger.role_given |= choice.delta is not None and "role" in choice.delta
        for kind, text in parts:
            ledger.record(kind, text, ids)
            ids = None if ids is None else b"[]"  # told once for the event
        if not parts and ids is not None and ids != b"[]":
            ledger.record("", b"", ids)
        if parts and self._run is not ledger.runs[-1]:
            self._before = _NO_SHAPE  # tokens are recorded in their order
        if choice.finish_reason is not None:
            ledger.finish_reason = choice.finish_reason
        elif (
            len(parts) == 1 and parts[0][0] != TOOL_CALLS and (choice.delta is None or len(choice.delta) == 1)
        ):
            self._learn(data, parts[0][0], ids_at if not prompt_ids else -1)
        elif self._hides_ids and choice.delta is not None and not choice.delta:
            return b""  # vLLM sends it only to name its tokens
        return edited if self._hides_ids else data

    def _learn(self, data: bytes, kind: str, ids_at: int) -> None:
        """Where the text of such an event stands, and where its ids; `ids_at` counts in `data`, -1 for nowhere."""
        start = data.find(b'"%b":"' % kind.encode()) + len(kind) + 4
        if start < len(kind) + 4:
            return  # written with spaces
        end = _string_end(data, start)
        self._run = self.ledger.runs[-1]
        self._before = data[:start]
        self._named = ids_at > end
        if self._named:
            self._after = data[end : ids_at + 1]
            self._tail = data[data.index(b"]", ids_at) + 1 :]
        else:
            self._after = data[end:]


def _is_string(text: bytes) -> bool:
    """Whether this is the inside of one JSON string: without a quote that would end it."""
    return text.find(b'"') < 0 or text.replace(b"\\\\", b"").replace(b'\\"', b"").find(b'"') < 0


def _string_end(data: bytes, start: int) -> int:
    """Where the JSON string ends whose inside begins at `start`."""
    end = data.index(b'"', start)
    while (end - start - len(data[start:end].rstrip(b"\\"))) % 2:  # an odd number of backslashes escapes it
        end = data.index(b'"', end + 1)
    return end


def _take_array(data: bytes, name: bytes) -> tuple[bytes, bytes | None, int]:
    """The event with `null` for an array of numbers, the array, and where it began.

    Raises:
        msgspec.DecodeError: it holds something else.
    """
    at = data.find(name)
    if at < 0:
        return data, None, -1
    start = at + len(name) - 1
    end = data.index(b"]", start) + 1
    if data[start + 1 : end - 1].translate(None, _OF_ARRAYS):
        raise msgspec.DecodeError("a token's id is no number")
    return data[:start] + b"null" + data[end:], data[start:end], start
