"""Edits and records each event between the replica and the client: the one step of resuming on the hot path. Pure.

Events of a stream differ in little: the same bytes, a JSON string, the same bytes, and with vLLM the token ids. So the
first event of a kind is decoded to learn where these stand, and the next ones are cut by comparing bytes. Slices are
compared and single bytes looked at, for that is compiled to a few instructions; a method of `bytes` is looked up and
its arguments are unpacked at each call.
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
_SPACE: Final = 0x20
_QUOTE: Final = 0x22
_COMMA: Final = 0x2C
_ZERO: Final = 0x30
_NINE: Final = 0x39
_BACKSLASH: Final = 0x5C
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

    def feed_known(self, data: bytes) -> bytes | None:  # noqa: ARG002 - others may know something
        """The client's bytes, where `data` is just one event such as came before; None if it is to be read."""
        return None


class EventEditor(Splice):
    """One stream from its first replica: whole events in, what the client gets out."""

    __slots__ = (
        "_after",
        "_before",
        "_hides_ids",
        "_hides_usage",
        "_named",
        "_past_ids",
        "_records",
        "_run",
        "_tail",
    )

    def __init__(self, *, hides_ids: bool, hides_usage: bool, records: bool = True) -> None:
        super().__init__(Ledger())
        self._records = records
        """Else the stream goes nowhere else, and its events are only looked at."""
        self._hides_ids = hides_ids
        self._hides_usage = hides_usage
        self._before = self._after = _NO_SHAPE
        self._tail = self._past_ids = b""
        """From the bracket that ends the ids, and from behind it."""
        self._named = False
        self._run = Run("")

    def feed(self, data: bytes) -> bytes:
        """The bytes for the client. `data` holds whole events, as EventScan gives them.

        An engine's own word that it failed becomes `failure`; the client does not get it, and may get the rest from
        elsewhere.
        """
        if self.failure is not None or not data:
            return b""
        if not data.endswith(_END):
            self.ledger.spoiled = "its events do not end as expected"
            return data
        if data.find(_END) == len(data) - 2 and data[0] != _NEWLINE:
            known = self.feed_known(data)
            return self._read(data) if known is None else known
        events = [event.lstrip(b"\n") for event in data.split(_END)]
        return b"".join([self.feed(event + _END) for event in events if event])

    def feed_known(self, data: bytes) -> bytes | None:
        """The client's bytes, where `data` is just one event of the shape learnt; None if it is to be read."""
        start = len(self._before)
        if data[:start] != self._before:
            return None
        end = _string_end(data, start)
        ids = end + len(self._after)
        if end < 0 or data[end:ids] != self._after:
            return None
        close = _numbers_end(data, ids) if self._named else ids
        if data[close:] != self._tail:
            return None
        if not self._records:
            return data
        run = self._run
        run.texts += b"%b," % data[start - 1 : end + 1]
        if not self._named:
            return data
        run.ids += b"%b," % data[ids - 1 : close + 1]
        return b"%bnull%b" % (data[: ids - 1], self._past_ids) if self._hides_ids else data

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
        parts = text_parts(choice.text, choice.delta)
        ledger.role_given |= choice.delta is not None and "role" in choice.delta
        if self._records:
            ledger.prompt_ids = prompt_ids or ledger.prompt_ids
            self._record_parts(parts, ids)
        if choice.finish_reason is not None:
            ledger.finish_reason = choice.finish_reason
        elif (
            len(parts) == 1 and parts[0][0] != TOOL_CALLS and (choice.delta is None or len(choice.delta) == 1)
        ):
            self._learn(data, parts[0][0], ids_at if not prompt_ids else -1)
        elif self._hides_ids and choice.delta is not None and not choice.delta:
            return b""  # vLLM sends it only to name its tokens
        return edited if self._hides_ids else data

    def _record_parts(self, parts: list[tuple[str, bytes]], ids: bytes | None) -> None:
        ledger = self.ledger
        for kind, text in parts:
            ledger.record(kind, text, ids)
            ids = None if ids is None else b"[]"  # told once for the event
        if not parts and ids is not None and ids != b"[]":
            ledger.record("", b"", ids)
        if parts and self._run is not ledger.runs[-1]:
            self._run = ledger.runs[-1]
            self._before = _NO_SHAPE  # tokens are recorded in their order

    def _learn(self, data: bytes, kind: str, ids_at: int) -> None:
        """Where the text of such an event stands, and where its ids; `ids_at` counts in `data`, -1 for nowhere."""
        start = data.find(b'"%b":"' % kind.encode()) + len(kind) + 4
        if start < len(kind) + 4:
            return  # written with spaces
        end = _string_end(data, start)
        self._before = data[:start]
        self._named = ids_at > end
        if self._named:
            self._after = data[end : ids_at + 1]
            self._tail = data[data.index(b"]", ids_at) :]
        else:
            self._after = data[end:]
            self._tail = b""
        self._past_ids = self._tail[1:]


def _string_end(data: bytes, start: int) -> int:
    """Where the JSON string ends whose inside begins at `start`: at its quote, or -1 where it does not."""
    at, size = start, len(data)
    while at < size:
        byte = data[at]
        if byte == _QUOTE:
            return at
        if byte < _SPACE:
            return -1
        at += 2 if byte == _BACKSLASH else 1
    return -1


def _numbers_end(data: bytes, start: int) -> int:
    """Where digits and commas end that begin at `start`."""
    at, size = start, len(data)
    while at < size and (_ZERO <= data[at] <= _NINE or data[at] == _COMMA):
        at += 1
    return at


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
