"""What is no TLS, or stops being it, costs the gateway nothing and its other clients no time."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from random import Random

import pytest

from plinth.gateway.server.serving import HANDSHAKE_SECONDS
from plinth.tests.gateway.shell.rig import Client, Gateway, Replica, eventually, gateway, post
from plinth.tests.gateway.test_tls import Authority

pytestmark = pytest.mark.process

HELLO = b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03" + bytes(32) + b"\x00\x00\x02\x13\x01\x01\x00\x00\x00"
"""A ClientHello of TLS 1.3 without any extension: a server must refuse it."""
GARBAGE = {
    "plain HTTP": post(),
    "noughts": bytes(100_000),
    "noise": Random(1).randbytes(1_000_000),  # noqa: S311 - no secret
    "SSL 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(40),
    "TLS 1.0": b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x01" + bytes(32) + b"\x00\x00\x02\x00\x2f\x01\x00",
    "a hello without extensions": HELLO,
    "a record that is too long": b"\x16\x03\x01\xff\xff" + bytes(70_000),
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "data before a handshake": b"\x17\x03\x03\x00\x10" + bytes(16),
}


@pytest.fixture(scope="module")
def served(backend: Replica, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    authority = Authority(folder, "authority")
    files = authority.issue(folder / "tls", "gateway")
    flags = ("--tls-cert", str(files.certificate), "--tls-key", str(files.key))
    with gateway(folder, backend.port, *flags) as found:
        found.tls = ssl.create_default_context(cafile=str(authority.path))
        found.tls.check_hostname = False  # it is reached by its address
        yield found


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_hung_up_on(data: bytes, served: Gateway) -> None:
    with Client(served.address) as client:
        client.send(data)
        assert client.is_closed_within(2)
    assert served.ask(post()).status == 200


def test_a_connection_that_stops_speaking_tls_is_hung_up_on(served: Gateway) -> None:
    with served.connect() as client:
        assert client.ask(post()).status == 200
        raw = socket.socket(fileno=client.socket.detach())
        with raw:
            raw.settimeout(2)
            raw.sendall(post() * 10)
            try:
                while raw.recv(65536):
                    pass
            except ConnectionResetError:
                pass
    eventually(served.is_at_rest)


def test_handshakes_that_never_end_are_cheap_in_nobodys_way_and_given_up(served: Gateway) -> None:
    before = served.memory_mib()
    with ExitStack() as stack:
        stalled = [stack.enter_context(Client(served.address)) for _ in range(300)]
        for client in stalled:
            client.send(HELLO[:20])
        began = time.monotonic()
        assert served.work_before_an_answer(post()) < 0.5
        assert served.memory_mib() - before < 60
        assert all(client.is_closed_within(HANDSHAKE_SECONDS + 3) for client in stalled)
        assert time.monotonic() - began < HANDSHAKE_SECONDS + 4
    eventually(served.is_at_rest)
    assert served.memory_mib() - before < 60
