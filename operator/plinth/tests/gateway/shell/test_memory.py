"""What a gateway holds for strangers is bounded, whatever they send and however many they are."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from plinth.tests.gateway.shell.rig import (
    HEALTH,
    WHOLE,
    Gateway,
    Replica,
    eventually,
    gateway,
    post,
    raise_file_limit,
    replica,
)

pytestmark = pytest.mark.process

IDLE = 10_000
CHUNKED = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
MEBIBYTE = 1024 * 1024


@pytest.fixture
def backend() -> Iterator[Replica]:
    with replica() as found:
        yield found


@pytest.fixture
def served(backend: Replica, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    raise_file_limit()
    with gateway(tmp_path_factory.mktemp("gateway"), backend.port) as found:
        assert found.ask(post()).status == 200  # all that is loaded once is loaded
        yield found


def test_ten_thousand_idle_connections_are_kept_cheaply_and_in_nobodys_way(served: Gateway) -> None:
    before = served.memory_mib()
    with ExitStack() as stack:
        clients = [stack.enter_context(served.connect()) for _ in range(IDLE)]
        for client in clients:
            client.send(HEALTH)
        for client in clients:
            heard = client.hear()
            assert heard is not None
            assert heard.status == 200
        grown = served.memory_mib() - before
        assert grown < 100, f"{grown * 1024 / IDLE:.1f} KiB a connection"
        assert served.gauge("plinth_gateway_connections") == IDLE + 1
        assert max(served.work_before_an_answer(post()) for _ in range(20)) < 0.2
    eventually(served.is_at_rest, 15)
    assert served.memory_mib() - before < 100


def test_heads_that_have_not_ended_are_small_change(served: Gateway) -> None:
    before = served.memory_mib()
    with ExitStack() as stack:
        for _ in range(300):
            client = stack.enter_context(served.connect())
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 5000)
        time.sleep(0.5)
        assert served.memory_mib() - before < 60
    eventually(served.is_at_rest)


def test_a_head_of_very_many_headers_is_refused(served: Gateway) -> None:
    heard = served.ask(b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 2000 + b"\r\n")
    assert (heard.status, heard.code) == (431, "headers_too_large")


ENDLESS = {
    "a line of a head": (b"GET / HTTP/1.1\r\nHost: a\r\nX-A: ", b"a"),
    "a target": (b"GET /", b"a"),
    "a head": (b"GET / HTTP/1.1\r\nHost: a\r\n", b"X-A: b\r\n"),
    "empty lines": (b"\r\n", b"\r\n"),
    "a chunk's size": (CHUNKED, b"0"),
    "a chunk's extension": (CHUNKED + b"5;", b"a"),
    "a line of trailers": (CHUNKED + b"1\r\n{\r\n0\r\nX-A: ", b"a"),
    "trailers": (CHUNKED + b"1\r\n{\r\n0\r\n", b"X-A: b\r\n"),
    "a chunked body": (CHUNKED, b"10\r\n0123456789abcdef\r\n"),
    "chunks of one byte": (CHUNKED, b"1\r\n \r\n"),
    "pipelined requests": (b"", post() * 4),
    "pipelined heads": (b"", b"GET /health HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 20_000 + b"\r\n\r\n"),
}


@pytest.mark.parametrize(("start", "more"), ENDLESS.values(), ids=ENDLESS)
def test_what_has_no_end_is_not_held(start: bytes, more: bytes, served: Gateway) -> None:
    """Sent as fast as it is taken, for two seconds; the largest body that is allowed is 32 MiB."""
    before = most = served.memory_mib()
    much = more * (256 * 1024 // len(more))
    with served.connect() as client:
        client.socket.settimeout(0.5)
        deadline = time.monotonic() + 2
        try:
            client.socket.sendall(start)
            while time.monotonic() < deadline:
                client.socket.sendall(much)
                most = max(most, served.memory_mib())
        except OSError:
            pass
        most = max(most, served.memory_mib())
        assert most - before < 100
        assert served.work_before_an_answer(HEALTH) < 0.5
    eventually(served.is_at_rest)


def test_all_bodies_together_are_bounded(backend: Replica, tmp_path_factory: pytest.TempPathFactory) -> None:
    flags = ("--all-body-bytes", str(64 * MEBIBYTE), "--body-bytes", str(20 * MEBIBYTE))
    with gateway(tmp_path_factory.mktemp("gateway"), backend.port, *flags) as served, ExitStack() as stack:
        before = served.memory_mib()
        body = b'{"model":"tiny","pad":"' + b"x" * 15 * MEBIBYTE
        clients = [stack.enter_context(served.connect()) for _ in range(20)]
        for client in clients:
            client.socket.settimeout(1)
            client.send(post(body + b'"}')[:-2])
        assert served.memory_mib() - before < 2 * 64
        refused = 0
        for client in clients:
            try:
                heard = client.hear()
            except OSError:
                continue
            if heard is not None:
                assert (heard.status, heard.code) == (503, "gateway_overloaded")
                refused += 1
        assert refused
        assert served.gauge("plinth_gateway_held_body_bytes") <= 64 * MEBIBYTE
        assert served.ask(post()).status == 200 or served.gauge("plinth_gateway_held_body_bytes")


def test_requests_that_wait_behind_an_answer_are_bounded_in_bytes(served: Gateway, backend: Replica) -> None:
    """Each with as large a head as is allowed, on many connections, while the replica thinks."""

    def think(connection: socket.socket) -> None:
        time.sleep(2)
        connection.sendall(WHOLE)

    backend.say = think
    before = served.memory_mib()
    waiting = b"GET /health HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 30_000 + b"\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(100):
            client = stack.enter_context(served.connect())
            client.send(post())
            client.socket.settimeout(0.05)
            client.send(*[waiting] * 64)
        assert served.memory_mib() - before < 100
    eventually(served.is_at_rest, 15)
