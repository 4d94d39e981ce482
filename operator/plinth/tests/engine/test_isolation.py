from __future__ import annotations

import pytest

from plinth.engine.isolation import bind_grpc_to_loopback


class RecordingServer:
    def __init__(self) -> None:
        self.bound: list[str] = []

    def add_insecure_port(self, address: str) -> int:
        self.bound.append(address)
        return 50051


@pytest.mark.parametrize(
    ("asked", "bound"),
    [
        ("[::]:0", "127.0.0.1:0"),
        ("0.0.0.0:7000", "127.0.0.1:7000"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
    ],
)
def test_a_server_that_asks_for_all_interfaces_gets_loopback(asked: str, bound: str) -> None:
    class Server(RecordingServer):
        pass

    bind_grpc_to_loopback(Server)
    bind_grpc_to_loopback(Server)
    server = Server()
    assert server.add_insecure_port(asked) == 50051
    assert server.bound == [bound]
