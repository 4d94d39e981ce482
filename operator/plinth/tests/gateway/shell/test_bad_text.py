"""Text that is no UTF-8, and JSON that is no sense, get an answer that is both."""

from __future__ import annotations

import msgspec
import pytest

from plinth.gateway.protocol.endpoints import PATHS
from plinth.tests.gateway.shell.rig import HEALTH, Gateway, Heard, post

pytestmark = pytest.mark.process

BAD = b"\xff\xfe\xc3("
NESTED = 100_000


def is_sound(heard: Heard) -> bool:
    """An answer that any client can read."""
    text = heard.body.decode()
    return not heard.headers[b"content-type"].startswith(b"application/json") or bool(
        msgspec.json.decode(text)
    )


BODIES = {
    "model": b'{"model":"' + BAD + b'"}',
    "a name": b'{"' + BAD + b'":1,"model":"tiny"}',
    "stream": b'{"model":"tiny","stream":"' + BAD + b'"}',
    "half a pair of surrogates": b'{"model":"\\ud800"}',
    "a NUL": b'{"model":"ti\\u0000ny"}',
    "UTF-16": '{"model":"tiny"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"model":"tiny"}',
    "only rubbish": BAD * 100,
    "nothing": b"",
    "spaces": b"   ",
    "a list": b'["tiny"]',
    "a number": b"1e999",
    "a number that is too large": b'{"model":"tiny","max_tokens":' + b"9" * 5000 + b"}",
    "two values": b'{"model":"tiny"}{"model":"tiny"}',
    "no end": b'{"model":"tiny","prompt":"a',
    "a model of another type": b'{"model":["tiny"]}',
    "lists without end": b'{"model":"tiny","a":' + b"[" * NESTED,
    "lists in lists": b'{"model":"tiny","a":' + b"[" * NESTED + b"]" * NESTED + b"}",
    "objects in objects": b'{"model":"tiny","a":' + b'{"a":' * NESTED + b"1" + b"}" * NESTED + b"}",
    "lists for messages": b'{"model":"tiny","messages":' + b"[" * NESTED + b"]" * NESTED + b"}",
    "a very long model": b'{"model":"' + b"x" * 1_000_000 + b'"}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("path", sorted(PATHS))
def test_a_bad_body_is_refused_and_the_connection_goes_on(path: str, body: bytes, served: Gateway) -> None:
    with served.connect() as client:
        heard = client.ask(post(body, path=path.encode()))
        assert 400 <= heard.status < 500
        assert is_sound(heard)
        assert len(heard.body) < 4096, "what was sent is not sent back"
        if heard.headers.get(b"connection") != b"close":
            assert client.ask(HEALTH).status == 200


HEADERS = (
    *(b"Authorization: Bearer ", b"x-api-key: ", b"x-request-id: ", b"traceparent: ", b"tracestate: "),
    *(b"Cache-Control: ", b"x-session-id: ", b"Content-Type: ", b"Accept: ", b"X-Any: "),
)


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header.decode().strip())
@pytest.mark.parametrize("value", [BAD, b"", b"\x80" * 3000, b'"\\', b"\t", b"%00%ff"])
def test_a_bad_header_is_passed_over_or_refused(header: bytes, value: bytes, served: Gateway) -> None:
    heard = served.ask(post(b'{"model":"tiny","prompt":"a"}', header + value))
    assert heard.status in {200, 400, 401}
    assert is_sound(heard)
    assert heard.headers[b"x-request-id"].decode().isprintable()


@pytest.mark.parametrize(
    "target", [b"/" + BAD, b"/v1/models/" + BAD, b"/v1/models/%ff%00", b"/?" + BAD, b"*", b"/%"]
)
@pytest.mark.parametrize("method", [b"GET", b"POST", b"HEAD", b"DELETE", b"OPTIONS", b"TRACE"])
def test_a_bad_target_is_refused(method: bytes, target: bytes, served: Gateway) -> None:
    with served.connect() as client:
        client.send(method + b" " + target + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := client.socket.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 40", b"HTTP/1.1 503"))
    if method != b"HEAD" or body:  # of what is no request not even the method is known
        assert msgspec.json.decode(body)["error"]
