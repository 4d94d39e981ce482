"""Redis' wire protocol, RESP2: commands out, answers in. Pure; the format is at redis.io/docs/reference/protocol-spec.

Answers may come in any pieces. An error inside is a value, since the commands before and after it were answered.
"""

from __future__ import annotations

from typing import Union

Reply = Union[int, bytes, None, "RedisError", list["Reply"]]


class RedisError(Exception):
    """What Redis says instead of an answer, as in `NOSCRIPT No matching script`."""


class MalformedReplyError(Exception):
    """Bytes that are no answer; nothing after them can be trusted."""


def command(*parts: bytes) -> bytes:
    r"""One command with its arguments.

    >>> command(b"GET", b"k")
    b'*2\r\n$3\r\nGET\r\n$1\r\nk\r\n'
    """
    pieces = [b"*%d\r\n" % len(parts)]
    pieces += [b"$%d\r\n%s\r\n" % (len(part), part) for part in parts]
    return b"".join(pieces)


class ReplyReader:
    """Answers of one connection, in their order."""

    __slots__ = ("_at", "_data")

    def __init__(self) -> None:
        self._data = b""
        self._at = 0

    def feed(self, data: bytes) -> list[Reply]:
        """The answers that are complete now.

        Raises:
            MalformedReplyError: these are not the bytes of a Redis.
        """
        self._data = self._data[self._at :] + data if self._at < len(self._data) else data
        self._at = 0
        replies: list[Reply] = []
        while self._at < len(self._data):
            start = self._at
            try:
                replies.append(self._read())
            except EOFError:
                self._at = start
                break
            except (ValueError, IndexError, RecursionError) as error:
                raise MalformedReplyError(str(error)) from error
        return replies

    def _read(self) -> Reply:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        if kind == b"$":
            return self._bulk(int(rest))
        if kind == b"*":
            count = int(rest)
            return None if count < 0 else [self._read() for _ in range(count)]
        if kind == b"-":
            return RedisError(rest.decode("utf-8", "replace"))
        raise MalformedReplyError(f"no answer begins with {kind!r}")

    def _line(self) -> bytes:
        end = self._data.find(b"\r\n", self._at)
        if end < 0:
            raise EOFError
        line = self._data[self._at : end]
        self._at = end + 2
        return line

    def _bulk(self, length: int) -> bytes | None:
        if length < 0:
            return None
        end = self._at + length
        if len(self._data) < end + 2:
            raise EOFError
        value = self._data[self._at : end]
        self._at = end + 2
        return value
