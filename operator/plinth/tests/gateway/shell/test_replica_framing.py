"""Whatever a replica writes, its client gets one well-formed answer, and the next request gets its own."""

from __future__ import annotations

import socket
from contextlib import suppress

import pytest

from plinth.tests.gateway.shell.rig import ANSWER, WHOLE, Gateway, Replica, eventually, post

pytestmark = pytest.mark.process

HEAD = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(ANSWER)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"

WRONG = {
    "two framings": HEAD + LENGTH + CHUNKED + b"\r\n0\r\n\r\n" + FORGED,
    "two lengths": HEAD + LENGTH + b"Content-Length: 3\r\n\r\n" + ANSWER,
    "a negative length": HEAD + b"Content-Length: -3\r\n\r\n" + ANSWER,
    "a coding that is not spoken": HEAD + b"Transfer-Encoding: gzip\r\n\r\n" + ANSWER,
    "no end": HEAD + b"\r\n" + ANSWER,
    "no HTTP": b"SSH-2.0-OpenSSH_9.9\r\n",
    "nothing": b"",
    "half a head": HEAD + b"Content-Le",
    "a folded header": HEAD + b"X: a\r\n b\r\n" + LENGTH + b"\r\n" + ANSWER,
    "a bare LF": HEAD + b"X: a\n" + LENGTH + b"\r\n" + ANSWER,
    "a NUL in a header": HEAD + b"X: a\0b\r\n" + LENGTH + b"\r\n" + ANSWER,
    "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    + FORGED,
    "an endless line": HEAD + b"X: " + b"a" * 2_000_000,
    "endless headers": HEAD + b"a: b\r\n" * 300_000,
    "a bad chunk size": HEAD + CHUNKED + b"\r\nxyz\r\n",
}
FOLLOWED = {
    "another answer": WHOLE + FORGED,
    "rubbish": WHOLE + b"\0" * 100,
    "hints before it": b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" * 50 + WHOLE,
}


def answer_by(raw: bytes, backend: Replica) -> None:
    """Once so, with the connection's end after it; then as it should be."""

    def say(connection: socket.socket) -> None:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_RDWR)

    backend.say = say


def answer_well(backend: Replica) -> None:
    backend.say = lambda connection: connection.sendall(WHOLE)


@pytest.mark.parametrize("raw", WRONG.values(), ids=WRONG)
def test_a_broken_answer_becomes_one_refusal_and_spoils_nothing(
    raw: bytes, served: Gateway, backend: Replica
) -> None:
    answer_by(raw, backend)
    with served.connect() as client:
        refused = client.ask(post())
        assert refused.status in {502, 503}
        assert refused.code
        answer_well(backend)
        assert client.ask(post()).body == ANSWER
    eventually(served.is_at_rest)


@pytest.mark.parametrize("raw", FOLLOWED.values(), ids=FOLLOWED)
def test_what_stands_around_an_answer_is_nobodys_answer(
    raw: bytes, served: Gateway, backend: Replica
) -> None:
    with served.connect() as client:
        for _ in range(5):
            backend.say = lambda connection: connection.sendall(raw)
            heard = client.ask(post())
            assert heard.body == ANSWER or (heard.status >= 500 and heard.code)
            answer_well(backend)
            assert client.ask(post()).body == ANSWER


def test_an_answer_cut_short_is_not_taken_for_whole(served: Gateway, backend: Replica) -> None:
    answer_by(WHOLE[:-5], backend)
    with served.connect() as client, suppress(AssertionError):
        client.send(post())
        heard = client.hear()
        assert heard is None or heard.status >= 500
    answer_well(backend)
    assert served.ask(post()).body == ANSWER
