"""Requests that two parsers could read differently, and what must come of each.

The names are those of the attacks' inventors where there are such: CL.TE (Linhart and others, 2005), TE.TE and 0.CL
(Kettle, 2019 and 2025), TERM.EXT and EXT.TERM ("Funky chunks", 2025). Each would have a second request reach a replica.
"""

from __future__ import annotations

from dataclasses import dataclass

from plinth.tests.gateway.shell.rig import BODY, HEALTH, post

LINE = b"POST /v1/completions HTTP/1.1\r\n"
HOST = b"Host: a\r\n"
SMUGGLED = post(b'{"model":"tiny","prompt":"smuggled"}')
CHUNK = b"%x\r\n%b\r\n" % (len(BODY), BODY)
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
TOO_LONG = b"Content-Length: %d\r\n" % (len(BODY) + len(SMUGGLED))


@dataclass(frozen=True)
class Attack:
    """Bytes on one connection."""

    name: str
    data: bytes
    reads: tuple[bytes, ...] = ()
    """The bodies that reach the replica, in order."""
    answers: int = 0
    """Answers to well-formed requests, before a refusal."""
    refused: bool = True
    """Ends with a refusal and a closed connection; otherwise the connection goes on."""


def _headers(*lines: bytes) -> bytes:
    return LINE + HOST + b"".join(lines) + b"\r\n"


_FRAMING = {
    "CL.TE": LENGTH + CHUNKED,
    "TE.CL": CHUNKED + LENGTH,
    "CL.TE with spaces around it": LENGTH + b"Transfer-Encoding:  chunked  \r\n",
    "TE.TE xchunked": b"Transfer-Encoding: xchunked\r\n" + LENGTH,
    "TE.TE with another coding": b"Transfer-Encoding: gzip, chunked\r\n",
    "TE.TE with another coding after it": b"Transfer-Encoding: chunked, identity\r\n",
    "TE.TE twice": CHUNKED + CHUNKED,
    "TE.TE twice, once unknown": CHUNKED + b"Transfer-Encoding: x\r\n",
    "TE.TE quoted": b'Transfer-Encoding: "chunked"\r\n',
    "TE.TE with a vertical tab": b"Transfer-Encoding: \x0bchunked\r\n",
    "TE.TE with a NUL": b"Transfer-Encoding: chunked\0\r\n",
    "TE.TE with a space in the name": b"Transfer-Encoding : chunked\r\n",
    "TE.TE with a tab in the name": b"Transfer-Encoding\t: chunked\r\n",
    "TE.TE after a bare LF": b"X: y\nTransfer-Encoding: chunked\r\n",
    "TE.TE after a bare CR": b"X: y\rTransfer-Encoding: chunked\r\n",
    "TE.TE folded": b"Transfer-Encoding:\r\n chunked\r\n",
    "CL folded": b"Content-Length:\r\n %d\r\n" % len(BODY),
    "obs-fold": b"X: a\r\n b\r\n" + LENGTH,
    "obs-fold of the first header": b" X: a\r\n" + LENGTH,
    "CL twice": LENGTH + TOO_LONG,
    "CL twice, equal": LENGTH + LENGTH,
    "CL as a list": b"Content-Length: %d, %d\r\n" % (len(BODY), len(BODY)),
    "CL signed": b"Content-Length: +%d\r\n" % len(BODY),
    "CL negative": b"Content-Length: -1\r\n",
    "CL hexadecimal": b"Content-Length: 0x1d\r\n",
    "CL with an underscore": b"Content-Length: 2_9\r\n",
    "CL of two numbers": b"Content-Length: 2 9\r\n",
    "CL in other digits": "Content-Length: \uff12\uff19\r\n".encode(),
    "CL beyond 64 bits": b"Content-Length: 18446744073709551645\r\n",
    "CL of ten thousand digits": b"Content-Length: " + b"0" * 10_000 + b"29\r\n",
    "CL without a value": b"Content-Length:\r\n",
    "a header without a colon": b"Content-Length\r\n" + LENGTH,
    "a header without a name": b": x\r\n" + LENGTH,
    "a NUL in a value": b"X: a\0b\r\n" + LENGTH,
    "a NUL in a name": b"X\0: a\r\n" + LENGTH,
    "a second Host": b"Host: b\r\n" + LENGTH,
    "an unknown expectation": b"Expect: 200-ok\r\n" + LENGTH,
}
_CHUNKS = {
    "a signed chunk size": b"+1d\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a prefixed chunk size": b"0x1d\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a chunk size after a space": b" 1d\r\n" + BODY + b"\r\n0\r\n\r\n",
    "no chunk size": b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a chunk size beyond 64 bits": b"1000000000000001d\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a bare LF after a chunk size": b"1d\n" + BODY + b"\r\n0\r\n\r\n",
    "a bare CR after a chunk size": b"1d\r" + BODY + b"\r\n0\r\n\r\n",
    "TERM.EXT: a bare LF in a chunk extension": b"1d;a\nb\r\n" + BODY + b"\r\n0\r\n\r\n",
    "EXT.TERM: a bare CR in a chunk extension": b"1d;a\rb\r\n" + BODY + b"\r\n0\r\n\r\n",
    "SPILL.TERM: more data than the chunk's size": b"1d\r\n" + BODY + b"xx0\r\n\r\n",
    "TERM.SPILL: a bare LF after a chunk's data": b"1d\r\n" + BODY + b"\n0\r\n\r\n",
    "a bare LF after the last chunk": CHUNK + b"0\n\n",
    "a NUL in a chunk extension": b"1d;\0\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a trailer without a colon": CHUNK + b"0\r\nX\r\n\r\n",
    "a length in a trailer": CHUNK + b"0\r\nContent-Length: 3\r\n\r\n",
    "a folded trailer": CHUNK + b"0\r\nX: a\r\n b\r\n\r\n",
}
_LINES = {
    "HTTP/0.9": b"POST /v1/completions\r\n",
    "HTTP/1.2": b"POST /v1/completions HTTP/1.2\r\n" + HOST + LENGTH + b"\r\n" + BODY,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another protocol": b"POST /v1/completions http/1.1\r\n" + HOST + b"\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "a PROXY header": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    "no Host": LINE + LENGTH + b"\r\n" + BODY,
    "chunks in HTTP/1.0": b"POST /v1/completions HTTP/1.0\r\n" + CHUNKED + b"\r\n" + CHUNK + b"0\r\n\r\n",
    "a space in the target": b"POST /v1/completions HTTP/1.1 HTTP/1.1\r\n" + HOST + LENGTH + b"\r\n" + BODY,
    "a tab for a space": b"POST\t/v1/completions HTTP/1.1\r\n" + HOST + LENGTH + b"\r\n" + BODY,
    "a bare LF after the request line": LINE[:-2] + b"\n" + HOST + LENGTH + b"\r\n" + BODY,
    "bare LF throughout": LINE.replace(b"\r", b"") + b"Host: a\n" + LENGTH.replace(b"\r", b"") + b"\n" + BODY,
    "a NUL in the target": b"POST /v1/completions\0 HTTP/1.1\r\n" + HOST + LENGTH + b"\r\n" + BODY,
    "a CR in the target": b"POST /v1/completions\r HTTP/1.1\r\n" + HOST + LENGTH + b"\r\n" + BODY,
    "an unknown method": b"SMUGGLE / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a forward proxy's method": b"CONNECT a:80 HTTP/1.1\r\n" + HOST + b"\r\n",
}
_WITHOUT_BODY = {
    "a body on a request that takes none": b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "a chunked body on a request that takes none": (
        CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    ),
}
_READ = {
    "0.CL: a body that was to wait for 100 Continue": _headers(b"Expect: 100-continue\r\n", LENGTH) + BODY,
    "an offer to upgrade to HTTP/2": (
        _headers(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n", LENGTH)
        + BODY
    ),
    "a request that calls its own framing private": (
        _headers(b"Connection: content-length, host, x-request-id\r\n", LENGTH) + BODY
    ),
    "trailers": _headers(CHUNKED) + CHUNK + b"0\r\nHost: b\r\nAuthorization: x\r\n\r\n",
    "chunk extensions": _headers(CHUNKED) + b'1d;a=b;c="d"\r\n' + BODY + b"\r\n0;e\r\n\r\n",
    "chunks of one byte": (
        _headers(CHUNKED) + b"".join([b"01\r\n%c\r\n" % byte for byte in BODY]) + b"0\r\n\r\n"
    ),
    "a chunk size with many noughts": _headers(CHUNKED) + b"0000000000000000" + CHUNK + b"0\r\n\r\n",
    "empty lines before a request": b"\r\n\r\n" + post(),
}

ATTACKS: tuple[Attack, ...] = (
    *(Attack(name, _headers(lines) + CHUNK + b"0\r\n\r\n") for name, lines in _FRAMING.items()),
    *(Attack(name, _headers(CHUNKED) + body) for name, body in _CHUNKS.items()),
    *(Attack(name, data) for name, data in _LINES.items()),
    *(Attack(name, HEALTH[:-2] + rest, answers=1, refused=False) for name, rest in _WITHOUT_BODY.items()),
    *(Attack(name, data, reads=(BODY,), answers=1, refused=False) for name, data in _READ.items()),
    Attack("an absolute target", post(path=b"http://b/v1/completions"), answers=1, refused=False),
)
