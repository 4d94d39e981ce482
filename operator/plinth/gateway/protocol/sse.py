"""Watches an answer as it passes: where events end, how many there were, what its last bytes say of usage.

Nothing is decoded chunk by chunk. Only whole events are passed on, so that an event of the gateway's own can
follow at any moment; engines write whole events, hence nothing waits in practice. Pure.
"""

from __future__ import annotations

from typing import Final

_TAIL_BYTES: Final = 8192
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

    def usage(self) -> Usage | None:
        """The last `usage` object in the tail. A quote inside generated text is escaped, so `"usage"` is a key."""
        parts = self._parts
        tail = parts[0] if len(parts) == 1 else self.bytes()
        at = tail.rfind(b'"usage"')
        if at < 0:
            return None
        prompt = _number_of(b'"prompt_tokens"', tail, at)
        completion = _number_of(b'"completion_tokens"', tail, at)
        if prompt is None and completion is None:
            return None
        return Usage(prompt, completion)


class EventScan:
    """One event stream: gives back what may be passed on now."""

    __slots__ = ("_held", "_most_held", "events")

    def __init__(self, most_held: int = MOST_HELD_BYTES) -> None:
        self._held = b""
        self._most_held = most_held
        self.events = 0
        """Data lines passed on so far, `[DONE]` included."""

    def feed(self, data: bytes) -> bytes:
        """The whole events among what is held and `data`; the rest is held until its event ends."""
        if self._held:
            data = self._held + data
            self._held = b""
        if not data.endswith((b"\n\n", b"\r\n\r\n")):
            end = max(data.rfind(b"\n\n") + 2, data.rfind(b"\r\n\r\n") + 4)
            if end < 4 and len(data) < self._most_held:  # noqa: PLR2004 - neither was found
                self._held = data
                return b""
            if end >= 4:  # noqa: PLR2004 - as above
                data, self._held = data[:end], data[end:]
        self.events += data.count(b"\ndata:") + data.startswith(b"data:")
        return data

    def flush(self) -> bytes:
        """What is held when the stream has ended in peace."""
        data, self._held = self._held, b""
        return data


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
