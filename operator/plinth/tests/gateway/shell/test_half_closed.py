"""A connection that half ends, or breaks, leaves nothing behind at any stage."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from plinth.tests.gateway.shell.rig import (
    BODY,
    HEALTH,
    STREAM_HEAD,
    Gateway,
    Replica,
    eventually,
    post,
    replica,
)

pytestmark = pytest.mark.process

STAGES = {
    "before a byte": b"",
    "within a request line": b"POST /v1",
    "within a head": b"POST /v1/completions HTTP/1.1\r\nHost",
    "before a body": post()[: -len(BODY)],
    "within a body": post()[:-3],
    "while the replica thinks": post(),
    "with more requests waiting": post() * 3,
    "after a refusal": b"rubbish\r\n\r\n",
    "between requests": HEALTH,
}


@pytest.fixture(scope="module")
def backend() -> Iterator[Replica]:
    with replica() as found:
        found.say = _think
        yield found


def _think(connection: socket.socket) -> None:
    """Begins a stream and adds nothing, until the gateway hangs up."""
    connection.sendall(STREAM_HEAD + b"7\r\n: yes\n\n\r\n")
    connection.recv(1)
    raise ConnectionResetError


@pytest.mark.parametrize("sent", STAGES.values(), ids=STAGES)
def test_a_client_that_sends_no_more_has_hung_up(sent: bytes, served: Gateway, backend: Replica) -> None:
    """The engine's work must end with it: nobody could tell a half-closed connection from a dead one."""
    with served.connect() as client:
        client.send(sent)
        time.sleep(0.1)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.is_closed_within(3)
    eventually(served.is_at_rest)
    eventually(lambda: backend.hung_up == len(backend.got))


@pytest.mark.parametrize("sent", STAGES.values(), ids=STAGES)
def test_a_client_that_breaks_off_has_hung_up(sent: bytes, served: Gateway, backend: Replica) -> None:
    client = served.connect()
    client.send(sent)
    time.sleep(0.1)
    client.reset()
    eventually(served.is_at_rest)
    eventually(lambda: backend.hung_up == len(backend.got))


def test_a_replica_that_sends_no_more_ends_the_stream_with_an_error(
    served: Gateway, backend: Replica
) -> None:
    def stop(connection: socket.socket) -> None:
        connection.sendall(STREAM_HEAD + b"9\r\ndata: a\n\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)

    backend.say = stop
    try:
        with served.connect() as client:
            client.send(post(b'{"model":"tiny","stream":true,"prompt":"a"}'))
            heard = b""
            while data := client.socket.recv(65536):
                heard += data
    finally:
        backend.say = _think
    assert heard.endswith(b"0\r\n\r\n")
    assert b'"error"' in heard
    eventually(served.is_at_rest)
