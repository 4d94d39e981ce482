"""A replica's bytes to an answer, and an answer to a client's bytes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.gateway.protocol.errors import (
    error_body,
    error_event,
    error_headers,
    no_table_yet,
    stream_broken,
    unavailable,
)
from plinth.gateway.protocol.forward import question_head, upstream_head, upstream_prefix
from plinth.gateway.protocol.response import (
    ResponseError,
    ResponseReader,
    chunk,
    response_head,
)

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nServer: x\r\n\r\n"
)


def read(*pieces: bytes) -> ResponseReader:
    reader = ResponseReader()
    for piece in pieces:
        reader.feed(piece)
    return reader


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=5), st.data())
def test_an_answer_split_anywhere_reads_the_same(parts: list[bytes], draw: st.DataObject) -> None:
    data = CHUNKED + b"".join(chunk(part) for part in parts) + b"0\r\n\r\n"
    lines = [at for at in range(1, len(data)) if data[at - 1 : at] in {b"\r", b"\n"}]
    cuts = sorted(draw.draw(st.sets(st.integers(1, len(data) - 1) | st.sampled_from(lines), max_size=8)))
    reader = read(*[data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)])
    assert reader.complete
    assert reader.reusable
    assert reader.take() == b"".join(parts)
    assert reader.headers == [(b"content-type", b"text/event-stream")]


@pytest.mark.parametrize("size", [1, 15, 16, 2047, 2048, 70_000])
def test_events_that_come_as_one_chunk_each_read_as_they_were(size: int) -> None:
    part = b"x" * size
    reader = read(CHUNKED)
    for _ in range(3):
        reader.feed(chunk(part))
        assert reader.take() == part
    reader.feed(b"%x;ext=1\r\n%b\r\n1" % (size, part))
    assert reader.take() == part
    reader.feed(b"0\r\n" + b"y" * 16 + b"\r\n")
    assert reader.take() == b"y" * 16, "the size began in the piece before"
    reader.feed(b"0\r\n\r\n")
    assert reader.complete


@pytest.mark.parametrize("rest", [b"1\r\na\r", b"3\r\na\r\n", b"-1\r\na\r\n", b"\r\n"])
def test_what_is_not_one_chunk_is_left_to_the_parser(rest: bytes) -> None:
    whole, pieces = read(), read(CHUNKED, b"1\r\na\r\n")
    with contextlib.suppress(ResponseError):
        pieces.feed(rest)
    with contextlib.suppress(ResponseError):
        whole.feed(CHUNKED + b"1\r\na\r\n" + rest)
    assert whole.take() == pieces.take()


def test_a_chunk_behind_the_answer_is_none() -> None:
    reader = read(CHUNKED, b"1\r\na\r\n0\r\n\r\n")
    reader.take()
    with pytest.raises(ResponseError):
        reader.feed(b"1\r\nb\r\n")
    assert reader.parts == []


def test_an_informational_answer_is_not_the_answer() -> None:
    reader = read(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert not reader.head_complete
    reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab")
    assert (reader.status, reader.complete, reader.take()) == (200, True, b"ab")


def test_an_answer_that_only_the_connection_ends_has_no_known_end() -> None:
    assert not read(b"HTTP/1.1 200 OK\r\n\r\nab").has_known_end()
    assert read(b"HTTP/1.1 204 No Content\r\n\r\n").has_known_end()


def test_bytes_beyond_the_answer_make_the_connection_unusable() -> None:
    one = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"
    reader = read(one + one)
    assert reader.overrun
    assert reader.take() == b"a"


@pytest.mark.parametrize(
    "data", [b"rubbish\r\n\r\n", CHUNKED + b"zz\r\n", b"HTTP/1.1 200 OK\r\nX\x00: a\r\n\r\n"]
)
def test_what_is_no_answer_raises(data: bytes) -> None:
    with pytest.raises(ResponseError, match="not an HTTP response"):
        read(data)


def test_the_head_for_a_replica_carries_the_secret_and_the_length_of_the_body() -> None:
    prefix = upstream_prefix(path="/slot", host="::1", port=9, secret="s")
    head = upstream_head(prefix, b"/v1/completions", [(b"a", b"b")], length=3, request_id=b"id")
    assert head == (
        b"POST /slot/v1/completions HTTP/1.1\r\nhost: [::1]:9\r\nauthorization: Bearer s\r\n"
        b"a: b\r\ncontent-length: 3\r\nx-request-id: id\r\n\r\n"
    )


def test_a_question_of_the_gateways_own_is_a_get_unless_it_has_a_body() -> None:
    prefix = upstream_prefix(path="/slot", host="h", port=9, secret="s")
    start = b"/slot/v1/models HTTP/1.1\r\nhost: h:9\r\nauthorization: Bearer s\r\n"
    assert question_head(prefix, "/v1/models", 0) == b"GET " + start + b"\r\n"
    assert b"content-length: 2\r\n\r\n" in question_head(prefix, "/v1/models", 2)


def test_an_answer_says_whether_the_connection_lives_on() -> None:
    head = response_head(200, [(b"a", b"b")], request_id=b"r", length=None, chunked=True, keep_alive=False)
    assert head == (
        b"HTTP/1.1 200 OK\r\na: b\r\ntransfer-encoding: chunked\r\nx-request-id: r\r\nconnection: close\r\n\r\n"
    )


def test_a_refusal_has_openais_shape_and_says_what_to_do_next() -> None:
    refusal = no_table_yet()
    assert error_headers(refusal)[1:] == [(b"retry-after", b"1"), (b"x-should-retry", b"true")]
    assert error_body(refusal) == (
        b'{"error":{"message":"the gateway has just started and does not know its models yet",'
        b'"type":"overloaded_error","param":null,"code":"no_route_table"}}'
    )


def test_a_model_that_waiting_does_not_help_tells_clients_not_to_retry() -> None:
    assert (b"x-should-retry", b"false") in error_headers(unavailable("m", "why"))


def test_the_event_that_ends_a_broken_stream_is_one_data_line() -> None:
    event = error_event(stream_broken("gone"))
    assert event.startswith(b'data: {"error":{')
    assert event.endswith(b"}}\n\n")
    assert event.count(b"\n") == 2


def test_no_data_makes_no_chunk_since_an_empty_one_would_end_the_body() -> None:
    assert chunk(b"") == b""
    assert chunk(b"a" * 16) == b"10\r\n" + b"a" * 16 + b"\r\n"
