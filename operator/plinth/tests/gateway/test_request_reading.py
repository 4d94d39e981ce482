"""Bytes to requests: the same whatever the boundaries, and nothing that two parsers could read differently."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.gateway.protocol.request import RequestLimits, RequestReader

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
TOKEN = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(lambda text: "x-" + text)
VALUE = st.text("abc XYZ019;,=/", max_size=20).map(str.strip)


def read(*pieces: bytes, head: int = 4096, body: int = 4096) -> RequestReader:
    reader = RequestReader(RequestLimits(head=head, body=body))
    for piece in pieces:
        reader.feed(piece)
    return reader


def summary(reader: RequestReader) -> tuple[object, ...]:
    requests = [
        (r.method, r.target, r.headers, r.body, r.keep_alive, r.chunked_ok, r.request_id)
        for r in reader.requests
    ]
    refusal = reader.refusal
    return requests, None if refusal is None else (refusal.status, refusal.code)


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    """A few pipelined requests, by length or by chunks, sometimes ending in rubbish."""
    out = b""
    for _ in range(draw(st.integers(1, 3))):
        extra = draw(st.dictionaries(TOKEN, VALUE, max_size=3))
        out += HEAD + "".join(f"{k}: {v}\r\n" for k, v in extra.items()).encode()
        parts = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=4))
        if draw(st.booleans()):
            data = b"".join(parts)
            out += b"Content-Length: %d\r\n\r\n%s" % (len(data), data)
        else:
            chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
            out += b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    return out + draw(
        st.sampled_from([b"", b"", b"BAD\x00", b"GET / HTTP/3.0\r\n\r\n", HEAD + b"Host: b\r\n\r\n"])
    )


@given(conversations(), st.data())
def test_requests_split_at_any_byte_boundary_read_the_same(data: bytes, draw: st.DataObject) -> None:
    cuts = sorted(draw.draw(st.sets(st.integers(1, len(data) - 1), max_size=12)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert summary(read(*pieces)) == summary(read(data))


def test_one_byte_at_a_time_reads_the_same() -> None:
    data = (
        HEAD
        + b"Content-Length: 3\r\n\r\nabc"
        + HEAD
        + b"Transfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n"
    )
    found = read(*[data[i : i + 1] for i in range(len(data))])
    assert [request.body for request in found.requests] == [b"abc", b"de"]
    assert found.refusal is None


@given(st.binary(max_size=300))
def test_rubbish_never_raises(data: bytes) -> None:
    read(data)


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 3\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3",
        b"Content-Length: 3\r\nContent-Length: 4",
        b"Content-Length: 3\r\nContent-Length: 3",
        b"Content-Length: +3",
        b"Content-Length: -3",
        b"Content-Length: 0x3",
        b"Content-Length: 3, 3",
        b"Content-Length: 99999999999999999999999",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding:\x0bchunked",
        b"Transfer-Encoding : chunked",
        b"X: a\r\n folded\r\nContent-Length: 3",
        b"X: a\x00b\r\nContent-Length: 3",
        b"X: a\nContent-Length: 3",
        b"Host: other\r\nContent-Length: 3",
    ],
)
def test_framing_that_two_parsers_could_read_differently_is_refused(headers: bytes) -> None:
    found = read(HEAD + headers + b"\r\n\r\n" + b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
    assert not found.requests
    assert found.refusal is not None
    assert found.refusal.status in {400, 413, 501}
    assert found.refusal.closes


@pytest.mark.parametrize("size", [b"-3", b"0x3", b"3 ", b"+3", b"g", b"fffffffffffffffff"])
def test_a_chunk_size_in_another_notation_is_refused(size: bytes) -> None:
    found = read(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + size + b"\r\nabc\r\n0\r\n\r\n")
    assert not found.requests
    assert found.refusal is not None


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (HEAD + b"Content-Length: 3\r\nExpect: miracles\r\n\r\nabc", 417),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
    ],
)
def test_what_is_not_spoken_here_is_refused(data: bytes, status: int) -> None:
    found = read(data)
    assert found.refusal is not None
    assert found.refusal.status == status


def test_requests_before_the_offending_one_are_still_answered() -> None:
    found = read(HEAD + b"Content-Length: 1\r\n\r\na" + b"rubbish\r\n\r\n")
    assert [request.body for request in found.requests] == [b"a"]
    assert found.refusal is not None


def test_what_follows_connection_close_is_ignored() -> None:
    first = HEAD + b"Connection: close\r\nContent-Length: 1\r\n\r\na"
    for pieces in ([first + HEAD], [first, HEAD]):
        found = read(*pieces)
        assert [request.keep_alive for request in found.requests] == [False]
        assert found.refusal is None


def test_an_offer_to_upgrade_is_ignored_and_http_goes_on() -> None:
    offer = HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 1\r\n\r\na"
    found = read(offer + HEAD + b"Content-Length: 1\r\n\r\nb")
    assert [request.body for request in found.requests] == [b"a", b"b"]
    assert found.requests[0].headers == []


@pytest.mark.parametrize("pieces", [1, 7, 1000])
def test_a_head_beyond_the_limit_is_refused_whether_or_not_it_ends(pieces: int) -> None:
    data = HEAD + b"X-Long: " + b"a" * 10_000
    size = -(-len(data) // pieces)
    found = read(*[data[i : i + size] for i in range(0, len(data), size)], head=1000)
    assert found.refusal is not None
    assert found.refusal.status == 431


def test_a_body_beyond_the_limit_is_refused_before_it_is_read() -> None:
    found = read(HEAD + b"Content-Length: 5000\r\n\r\n")
    assert found.refusal is not None
    assert found.refusal.status == 413


def test_a_chunked_body_is_refused_as_soon_as_it_exceeds_the_limit() -> None:
    found = read(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"400\r\n" + b"a" * 1024 + b"\r\n"] * 5, body=4000
    )
    assert found.refusal is not None
    assert found.refusal.status == 413


def test_trailers_and_chunk_extensions_go_no_further() -> None:
    found = read(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n0\r\nX-Trailer: t\r\nHost: b\r\n\r\n"
    )
    assert found.requests[0].headers == []
    assert found.requests[0].body == b"a"
    assert found.refusal is None


def test_a_client_that_waits_for_100_continue_is_noticed_until_its_body_comes() -> None:
    reader = read(HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert reader.wants_continue
    reader.feed(b"ab")
    assert not reader.wants_continue
    assert reader.requests[0].body == b"ab"


@pytest.mark.parametrize(
    ("given_id", "kept"), [(b"abc-1", b"abc-1"), (b"a b", b""), (b"a" * 129, b""), (b"\xff", b"")]
)
def test_only_a_sane_request_id_is_kept(given_id: bytes, kept: bytes) -> None:
    found = read(HEAD + b"X-Request-Id: " + given_id + b"\r\nContent-Length: 0\r\n\r\n")
    assert found.requests[0].request_id == kept


def test_an_upgrade_offer_cannot_hide_a_request_in_its_body() -> None:
    inner = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    offer = HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(inner)
    for pieces in ([offer + inner], [offer, inner], [offer[:-1], offer[-1:] + inner[:5], inner[5:]]):
        found = read(*pieces)
        assert [request.body for request in found.requests] == [inner]
