"""Who sends or reads a byte at a time is given up in time, and meanwhile nobody else waits."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path

import pytest

from plinth.tests.gateway.shell.rig import (
    BODY,
    HEALTH,
    STREAM_HEAD,
    Gateway,
    Replica,
    eventually,
    gateway,
    post,
)

pytestmark = pytest.mark.process

LIMIT_SECONDS = 0.6
GIVEN_UP_SECONDS = LIMIT_SECONDS + 0.5 + 1.4
"""The limit, the half second between looks, and what a busy machine takes."""
FLAGS = (
    *("--header-seconds", str(LIMIT_SECONDS), "--body-seconds", str(LIMIT_SECONDS)),
    *("--keep-alive-seconds", str(LIMIT_SECONDS), "--stream-idle-seconds", str(LIMIT_SECONDS)),
)
CHUNKED = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
SLOW = {
    "a head": (b"POST /v1/completions HTTP/1.1\r\n", b"X-A: b\r\n"),
    "a header's line": (b"POST /v1/completions HTTP/1.1\r\nX-A: ", b"b"),
    "a target": (b"POST /v1/completions?", b"a"),
    "empty lines": (b"\r\n", b"\r\n"),
    "a body": (post(BODY + b" " * 1000)[:-1000], b" "),
    "a chunked body": (CHUNKED, b"1\r\n \r\n"),
    "a chunk's size": (CHUNKED, b"0"),
    "a chunk's extension": (CHUNKED + b"5;", b"a"),
    "trailers": (CHUNKED + b"1\r\n{\r\n0\r\n", b"X-A: b\r\n"),
    "a trailer's line": (CHUNKED + b"1\r\n{\r\n0\r\nX-A: ", b"b"),
    "a second head": (HEALTH + b"GET ", b"/"),
}


@pytest.fixture(scope="module")
def served(backend: Replica, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("gateway"), backend.port, *FLAGS) as found:
        yield found


def drip(connection: socket.socket, piece: bytes) -> bool:
    """Whether one more piece could be sent."""
    try:
        connection.sendall(piece)
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("start", "piece"), SLOW.values(), ids=SLOW)
def test_bytes_that_only_drip_do_not_keep_a_connection(start: bytes, piece: bytes, served: Gateway) -> None:
    with served.connect() as client:
        client.send(start)
        began = time.monotonic()
        client.socket.settimeout(0.05)
        while time.monotonic() - began < 2 * GIVEN_UP_SECONDS:
            try:
                if not client.socket.recv(65536):
                    break
            except TimeoutError:
                pass
            except OSError:
                break
            if not drip(client.socket, piece):
                break
        assert LIMIT_SECONDS * 0.8 < time.monotonic() - began < GIVEN_UP_SECONDS
    eventually(served.is_at_rest)


def test_five_hundred_slow_ones_do_not_hold_up_a_quick_one(served: Gateway) -> None:
    with ExitStack() as stack:
        starts = cycle(SLOW.values())
        for _ in range(500):
            stack.enter_context(served.connect()).send(next(starts)[0])
        assert served.work_before_an_answer(post()) < 0.5
    eventually(served.is_at_rest)


def test_a_stream_that_nobody_reads_stops_its_replica_and_ends(served: Gateway, backend: Replica) -> None:
    before = served.memory_mib()
    sent = 0

    def endless(connection: socket.socket) -> None:
        nonlocal sent
        event = b"data: " + b"x" * 4000 + b"\n\n"
        connection.sendall(STREAM_HEAD)
        while True:
            connection.sendall(b"%x\r\n%b\r\n" % (len(event), event))
            sent += len(event)

    usual, backend.say = backend.say, endless
    gone = backend.hung_up
    try:
        with ExitStack() as stack:
            clients = [stack.enter_context(served.connect(window=4096)) for _ in range(20)]
            for client in clients:
                client.send(post(b'{"model":"tiny","stream":true,"prompt":"a"}'))
            eventually(lambda: backend.hung_up >= gone + 20, GIVEN_UP_SECONDS + 3)
            assert served.memory_mib() - before < 60
    finally:
        backend.say = usual
    assert sent < 20 * 16 * 1024 * 1024, "the kernel's buffers, and no more"
    eventually(served.is_at_rest)


@pytest.mark.parametrize("path", [b"/metrics", b"/v1/models", b"/nowhere"])
def test_answers_that_nobody_reads_are_not_heaped_up(path: bytes, backend: Replica, tmp_path: Path) -> None:
    """Each of these requests is smaller than its answer, and no replica limits their rate."""
    asked = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path
    with gateway(tmp_path, backend.port, *FLAGS) as served, served.connect(window=4096) as client:
        before = served.memory_mib()
        client.socket.settimeout(0.5)
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline and drip(client.socket, asked * 500):
            assert served.memory_mib() - before < 50
        assert served.work_before_an_answer(HEALTH) < 0.5


def test_a_thousand_requests_in_one_read_do_not_hold_up_others(served: Gateway) -> None:
    with served.connect() as client:
        client.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 5000)
        assert served.work_before_an_answer(HEALTH) < 0.5
