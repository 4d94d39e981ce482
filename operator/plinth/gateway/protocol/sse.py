"""Watches an answer as it passes: where events end, how many there were, what its last bytes say of usage.

Nothing is decoded chunk by chunk. Only whole events are passed on, so that an event of the gateway's own can
follow at any moment; engines write whole events, hence nothing waits in practice. Pure.
"""

from __future__ import annotations

from typing import Final

_TAIL_BYTES: Final = 8192
_USAGE: Final = b'"usage"'
MOST_HELD_BYTES: Final = 256 * 1024
"""An event longer than this is passed on in pieces: memory is bounded."""
_SPACE: Final = 0x20
_COLON: Final = 0x3A
_ZERO: Final = 0x30
_NINE: Final = 0x39
_MOST_TOKENS: Final = 10**12


class Usage:
    """What the engine says it read and wrote, in tokens; None where it does not say."""

    __slots__ = ("completion_tokens", "prompt_tokens")

    def __init__(self, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens


class Tail:
    """The last 8 KiB of a body, kept without copying."""

    __slots__ = ("_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        """Takes the next piece in and lets go of what is too old."""
        parts = self._parts
        parts.append(data)
        self._size += len(data)
        while self._size - len(parts[0]) >= _TAIL_BYTES:
            self._size -= len(parts.pop(0))

    def bytes(self) -> bytes:
        """At most the last 8 KiB, whatever the pieces were."""
        return b"".join(self._parts)[-_TAIL_BYTES:]

    def usage(self) -> Usage:
        """What it says of usage."""
        parts = self._parts
        return usage_in(parts[0] if len(parts) == 1 else self.bytes())


class EventScan:
    """One event stream: gives back what may be passed on now."""

    __slots__ = ("_held", "_most_held", "events", "told")

    def __init__(self, most_held: int = MOST_HELD_BYTES) -> None:
        self._held = b""
        self._most_held = most_held
        self.events = 0
        """Data lines passed on so far, `[DONE]` included."""
        self.told = b""
        """The last piece that says something of usage."""

    def is_between_events(self) -> bool:
        """Whether nothing is held."""
        return not self._held

    def feed(self, data: bytes) -> bytes:
        """The whole events among what is held and `data`; the rest is held until its event ends."""
        if self._held:
            data = self._held + data
            self._held = b""
        if data[-2:] != b"\n\n" and data[-4:] != b"\r\n\r\n":
            end = max(data.rfind(b"\n\n") + 2, data.rfind(b"\r\n\r\n") + 4)
            if end < 4 and len(data) < self._most_held:  # noqa: PLR2004 - neither was found
                self._held = data
                return b""
            if end >= 4:  # noqa: PLR2004 - as above
                data, self._held = data[:end], data[end:]
        self._look_at(data)
        return data

    def flush(self) -> bytes:
        """What is held when the stream has ended in peace."""
        data, self._held = self._held, b""
        if data:
            self._look_at(data)
        return data

    def _look_at(self, data: bytes) -> None:
        self.events += data.count(b"\ndata:") + (data[:5] == b"data:")
        if data.find(_USAGE) >= 0:
            self.told = data


def usage_in(data: bytes) -> Usage:
    """What the last `usage` object says. A quote inside generated text is escaped, so `"usage"` is a key."""
    at = data.rfind(_USAGE)
    if at < 0:
        return Usage(None, None)
    return Usage(_number_of(b'"prompt_tokens"', data, at), _number_of(b'"completion_tokens"', data, at))


def _number_of(key: bytes, data: bytes, start: int) -> int | None:
    """The whole number that follows the first such key from there on; None where there is none."""
    at = data.find(key, start)
    if at < 0:
        return None
    at = _past_spaces(data, at + len(key))
    if at == len(data) or data[at] != _COLON:
        return None
    begin = at = _past_spaces(data, at + 1)
    number = 0
    while at < len(data) and _ZERO <= data[at] <= _NINE and number < _MOST_TOKENS:
        number = number * 10 + data[at] - _ZERO
        at += 1
    return number if at > begin else None


def _past_spaces(data: bytes, at: int) -> int:
    while at < len(data) and data[at] <= _SPACE:
        at += 1
    return at
