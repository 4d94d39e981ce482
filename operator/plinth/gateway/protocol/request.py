"""Reads a client's bytes into requests: first step of the data path. Sans-I/O and pure.

llhttp (through httptools) does the grammar in its strict mode; this module adds what a gateway must refuse on
top of it: several or no Host, encodings other than plain `chunked`, sizes beyond the limits. Whatever the
boundaries at which bytes arrive, the same requests and the same refusal come out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import httptools

from plinth.gateway.protocol.errors import Refusal, body_too_large, malformed
from plinth.gateway.protocol.headers import NOT_FORWARDED, is_sane_request_id, named_by_connection

_MOST_HEADER_LINES: Final = 128
"""Each costs far more memory than its bytes."""


class _RefusedError(Exception):
    """Ends the parser's work on bytes that nobody will read."""


@dataclass(frozen=True)
class RequestLimits:
    """Sizes in bytes that one request may have."""

    head: int = 32 * 1024
    body: int = 32 * 1024 * 1024


class Request:
    """One request: complete when the reader hands it out."""

    __slots__ = (
        "api_key",
        "authorization",
        "body",
        "chunked_ok",
        "headers",
        "keep_alive",
        "method",
        "peer",
        "request_id",
        "target",
    )

    def __init__(self, *, request_id: bytes = b"", peer: str = "") -> None:
        self.method = b""
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        """What may be passed on, names in lower case."""
        self.body = b""
        self.keep_alive = False
        self.chunked_ok = True
        """False for HTTP/1.0, which does not know chunked answers."""
        self.request_id = request_id
        """The client's, when it is sane; else empty."""
        self.authorization = b""
        self.api_key = b""
        """The header `x-api-key`, by which some clients show their key instead."""
        self.peer = peer
        """The client's address."""


class RequestReader:
    """Fed with bytes; complete requests gather in `requests`, at most one `refusal` ends the conversation.

    Requests that were complete before the offending bytes are still answered, in order, before the refusal.
    """

    def __init__(self, limits: RequestLimits) -> None:
        self.requests: deque[Request] = deque()
        self.refusal: Refusal | None = None
        self.wants_continue = False
        """The client waits for `100 Continue` before it sends the body."""
        self.body_bytes = 0
        """Of the body that is being read."""
        self.reading_head = False
        """Some bytes of a head arrived, not all."""
        self.reading_body = False
        self._limits = limits
        self._finished = False
        self._replay = b""
        self._unseen_bytes = 0
        self._parser = httptools.HttpRequestParser(self)
        self._begin()

    def feed(self, data: bytes) -> None:
        """Takes bytes in; nothing is raised, see `refusal`."""
        while data and self.refusal is None and not self._finished:
            data = self._feed_once(data)
        # A line that never ends (of a head, a trailer, a chunk's extension) is held by the parser, out of sight of
        # on_header and on_body: count what was fed instead.
        if (self.reading_head or self.reading_body) and self._unseen_bytes > 2 * self._limits.head:
            self._refuse_head()

    def _feed_once(self, data: bytes) -> bytes:
        """Takes bytes in; what is to be read again is given back: a request that offers to upgrade, and all after it."""
        self._unseen_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse_grammar(error)
        return b""

    def refuse(self, refusal: Refusal) -> None:
        """Reads no further, for a reason that lies outside of the bytes; the first refusal stands."""
        self._refuse(refusal)

    def _begin(self) -> None:
        self._request = Request()
        self._target = b""
        self._lines: list[tuple[bytes, bytes]] = []
        """Of the head, then of the trailer."""
        self._body: bytes | bytearray = b""
        """One buffer from the second part on: thousands of small parts would cost many times their size."""
        self._hosts = 0
        self._declared_length = 0
        self._transfer_encoding: bytes | None = None
        self._connection = b""
        self._expect = b""

    # httptools calls these.

    def on_message_begin(self) -> None:
        """A first byte of a request line."""
        self.reading_head = True

    def on_url(self, part: bytes) -> None:
        """A part of the target."""
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line, or one of a trailer."""
        lines = self._lines
        lines.append((name, value))
        if len(lines) > _MOST_HEADER_LINES:
            self._refuse_head()
            raise _RefusedError  # the parser reads no further

    def on_headers_complete(self) -> None:
        """The empty line after the head."""
        self.reading_head = False
        self._unseen_bytes = 0
        self.reading_body = True
        request = self._request
        request.method = self._parser.get_method()
        request.target = self._target
        size, headers = len(self._target), request.headers
        for name, value in self._lines:
            size += len(name) + len(value) + 4
            name = name.lower()  # noqa: PLW2901 - nobody needs the other
            if name in NOT_FORWARDED:
                self._note(name, value)
            else:
                headers.append((name, value))
        if size > self._limits.head:
            self._refuse_head()
        request.keep_alive = self._parser.should_keep_alive()
        # Before 1.1 a connection is kept only where its header says so; and to write a version is dear.
        asked = bool(self._connection) or not request.keep_alive
        version = self._parser.get_http_version() if asked else "1.1"
        request.chunked_ok = version == "1.1"
        if self._connection:
            private = named_by_connection(self._connection)
            if private:
                request.headers = [item for item in request.headers if item[0] not in private]
        self._check_framing(version)
        if self._expect and self.refusal is None:
            self._check_expectation()

    def on_body(self, part: bytes) -> None:
        """A part of the body, unframed."""
        self.wants_continue = False
        self._unseen_bytes = 0
        self.body_bytes += len(part)
        if self.body_bytes > self._limits.body:
            self._refuse(body_too_large(self._limits.body))
        elif self.refusal is None and not self._body:
            self._body = part
        elif self.refusal is None:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += part

    def on_message_complete(self) -> None:
        """The last byte of the message."""
        self.reading_body = False
        self.wants_continue = False
        self.body_bytes = 0
        if self.refusal is not None or self._finished:
            return
        if self._parser.should_upgrade():
            self._replay = self._head_without_upgrade()
            self._begin()
            return
        request = self._request
        request.body = bytes(self._body)
        self.requests.append(request)
        # What follows `Connection: close` is not for us.
        self._finished = not request.keep_alive
        self._begin()

    # Checks.

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._hosts += 1
        elif name == b"content-length":
            self._declared_length = int(value)  # digits: llhttp has seen to it
        elif name == b"transfer-encoding":
            before = self._transfer_encoding
            self._transfer_encoding = value if before is None else before + b"," + value
        elif name == b"connection":
            self._connection += b"," + value if self._connection else value
        elif name == b"expect":
            self._expect = value
        elif name == b"authorization":
            self._request.authorization = value
        elif name == b"x-api-key":
            self._request.api_key = value
        elif name == b"x-request-id" and is_sane_request_id(value):
            self._request.request_id = value

    def _check_framing(self, version: str) -> None:
        coding = self._transfer_encoding
        if version not in {"1.0", "1.1"}:
            self._refuse(malformed(f"HTTP/{version} is not spoken here", status=505))
        elif self._hosts > 1 or (self._hosts == 0 and version == "1.1"):
            self._refuse(malformed(f"{self._hosts} Host headers, must be one"))
        elif coding is not None and (version == "1.0" or coding.strip().lower() != b"chunked"):
            self._refuse(malformed("Transfer-Encoding must be `chunked`, in HTTP/1.1", status=501))
        elif self._request.method == b"CONNECT":
            self._refuse(malformed("this is no forward proxy", status=405))
        elif self._declared_length > self._limits.body:
            self._refuse(body_too_large(self._limits.body))

    def _check_expectation(self) -> None:
        if self._expect.strip().lower() != b"100-continue":
            self._refuse(malformed("this expectation cannot be met", status=417))
        else:
            self.wants_continue = self._declared_length > 0 or self._transfer_encoding is not None

    def _refuse(self, refusal: Refusal) -> None:
        if self.refusal is None:
            self.refusal = refusal
            self._body = b""

    def _refuse_head(self) -> None:
        self._refuse(
            malformed(
                f"the request head exceeds {self._limits.head} bytes or {_MOST_HEADER_LINES} lines",
                status=431,
                code="headers_too_large",
            )
        )

    def _refuse_grammar(self, error: httptools.HttpParserError) -> None:
        if not self._finished:
            self._refuse(malformed(f"not an HTTP/1.1 request: {error}"))

    def _head_without_upgrade(self) -> bytes:
        request = self._request
        lines = [
            b"%s %s HTTP/%s" % (request.method, request.target, self._parser.get_http_version().encode())
        ]
        lines.extend([b"%s: %s" % item for item in request.headers])
        lines.append(b"host: h")
        if self._transfer_encoding is not None:
            lines.append(b"transfer-encoding: chunked")
        elif self._declared_length:
            lines.append(b"content-length: %d" % self._declared_length)
        if not request.keep_alive:
            lines.append(b"connection: close")
        if self._expect:
            lines.append(b"expect: 100-continue")
        for name, value in (
            (b"x-request-id", request.request_id),
            (b"authorization", request.authorization),
            (b"x-api-key", request.api_key),
        ):
            if value:
                lines.append(name + b": " + value)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _ignore_upgrade(self, rest: bytes) -> bytes:
        """Reads the request as if no upgrade had been offered, which RFC 9110 (7.8) allows; gives back its bytes.

        llhttp takes what follows such a head for another protocol, the request's own body included: Java's
        client makes that offer with every first request.
        """
        self._parser = httptools.HttpRequestParser(self)
        self._unseen_bytes = 0
        return self._replay + rest
