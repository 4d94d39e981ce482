"""Reads a replica's answer and writes a client's: framing only. Sans-I/O and pure.

The body is unframed and framed again, so that what a client gets is well framed whatever a replica does, and a
stream can be ended by an event of our own at any moment.
"""

from __future__ import annotations

from typing import Final

import httptools

from plinth.gateway.protocol.headers import NOT_RETURNED

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
_BODILESS: Final = frozenset({204, 304})
_MOST_UNREAD_BYTES: Final = 256 * 1024
"""Of heads and trailers together, and of what frames a body; the parser holds a line until it ends."""
_WRITTEN_SIZES: Final = 2048
_CHUNK_SIZES: Final = [b"%x\r\n" % size for size in range(_WRITTEN_SIZES)]
"""Of one event, written in advance: formatting a number costs as much as the rest of a chunk."""
_PHRASES: Final = {
    200: b"OK",
    201: b"Created",
    202: b"Accepted",
    204: b"No Content",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    417: b"Expectation Failed",
    422: b"Unprocessable Content",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}


class ResponseError(Exception):
    """The replica's bytes are not an HTTP response; the text says why."""


class ResponseReader:
    """Fed with one connection's bytes; holds the answer that is being read.

    After `complete`, `begin` makes it ready for the next answer on the same connection.
    """

    __slots__ = (
        "_at_chunk",
        "_parser",
        "_unread",
        "chunked",
        "complete",
        "event_stream",
        "head_complete",
        "headers",
        "length",
        "overrun",
        "parts",
        "reusable",
        "status",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._unread = 0
        self._at_chunk = False
        """What came last was the end of a chunk: the next byte begins one."""
        self.overrun = False
        """Bytes came after the answer: the connection says things nobody asked for."""
        self.begin()

    def begin(self) -> None:
        """Ready for the next answer."""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        """What may be returned, names in lower case."""
        self.parts: list[bytes] = []
        """Body bytes since the last `take`."""
        self.length: int | None = None
        self.chunked = False
        self.event_stream = False
        self.head_complete = False
        self.complete = False
        self.reusable = False

    def feed(self, data: bytes) -> None:
        """Takes bytes in; raises ResponseError.

        A stream's event comes as one chunk by itself, nearly always: that one needs no parser, which stays where it is.
        """
        if self._at_chunk:
            part = _one_chunk(data)
            if part:
                self._unread = 0
                self.parts.append(part)
                return
        self._unread += len(data)
        self._at_chunk = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise ResponseError(f"not an HTTP response: {error}") from error
        if data[-2:] != b"\r\n":
            self._at_chunk = False  # the next chunk's size has begun, which the parser tells only at its end
        if self._unread > _MOST_UNREAD_BYTES:
            raise ResponseError(f"more than {_MOST_UNREAD_BYTES} bytes without a body")

    def take(self) -> bytes:
        """The body bytes that came since the last call."""
        parts = self.parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.parts = []
        return data

    def has_known_end(self) -> bool:
        """Whether the answer says where it ends; without that, a broken one looks like a complete one."""
        return self.chunked or self.length is not None or self.is_bodiless()

    def is_bodiless(self) -> bool:
        """Whether the status forbids a body."""
        return self.status in _BODILESS

    # httptools calls these.

    def on_message_begin(self) -> None:
        """A first byte of an answer."""
        if self.complete:
            self.overrun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line, or one of a trailer."""
        if self.head_complete:
            return  # a trailer
        name = name.lower()
        if name not in NOT_RETURNED:
            self.headers.append((name, value))
            if name == b"content-type":
                self.event_stream = value.startswith(b"text/event-stream")
        elif name == b"content-length":
            self.length = int(value)
        elif name == b"transfer-encoding":
            self.chunked = value.strip().lower() == b"chunked"

    def on_headers_complete(self) -> None:
        """The empty line after the head."""
        status = self._parser.get_status_code()
        if status >= 200:  # noqa: PLR2004 - 1xx announce an answer, they are none
            self.status = status
            self.head_complete = True

    def on_chunk_header(self) -> None:
        """The line before a chunk's body."""
        self._at_chunk = False

    def on_chunk_complete(self) -> None:
        """The line behind a chunk's body."""
        self._at_chunk = not self.complete

    def on_body(self, part: bytes) -> None:
        """A part of the body, unframed."""
        self._unread = 0
        if not self.complete:
            self.parts.append(part)

    def on_message_complete(self) -> None:
        """The last byte of the message."""
        if not self.head_complete:
            self.headers = []
            return
        self.complete = True
        self._at_chunk = False
        self.reusable = self._parser.should_keep_alive()


def _one_chunk(data: bytes) -> bytes:
    """The body of a chunk if `data` is just one, and small: it begins with the line that its length asks for.

    Else nothing, and the parser decides.
    """
    framed = len(data) - len(b"\r\n\r\n")
    digits = 1 if framed <= 0xF + 1 else 2 if framed <= 0xFF + 2 else 3
    size = framed - digits
    if not 0 < size < _WRITTEN_SIZES or data[: digits + 2] != _CHUNK_SIZES[size] or data[-2:] != b"\r\n":
        return b""
    return data[digits + 2 : -2]


def response_head(
    status: int,
    headers: list[tuple[bytes, bytes]],
    *,
    request_id: bytes,
    length: int | None,
    chunked: bool,
    keep_alive: bool,
    lines: bytes = b"",
) -> bytes:
    """The head of an answer: everything up to and including the empty line; `lines` are headers written already."""
    framing = b""
    if length is not None and status not in _BODILESS:
        framing = b"content-length: %d\r\n" % length
    elif chunked:
        framing = b"transfer-encoding: chunked\r\n"
    return b"HTTP/1.1 %d %b\r\n%b%b%bx-request-id: %b\r\n%b\r\n" % (
        status,
        _PHRASES.get(status, b"Status"),
        b"".join([b"%b: %b\r\n" % (name, value) for name, value in headers]),
        framing,
        lines,
        request_id,
        b"" if keep_alive else b"connection: close\r\n",
    )


def whole_response(
    status: int,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
    *,
    request_id: bytes,
    keep_alive: bool,
    head_only: bool = False,
    lines: bytes = b"",
) -> bytes:
    """A complete answer of the gateway's own; `head_only` for HEAD."""
    head = response_head(
        status,
        headers,
        request_id=request_id,
        length=len(body),
        chunked=False,
        keep_alive=keep_alive,
        lines=lines,
    )
    return head if head_only else head + body


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; empty for no data, since an empty chunk would end the body."""
    size = len(data)
    if not size:
        return b""
    return b"%b%b\r\n" % (_CHUNK_SIZES[size] if size < _WRITTEN_SIZES else b"%x\r\n" % size, data)
