from __future__ import annotations

from pathlib import Path

import pytest

from plinth.engine.network import LOOPBACK, free_port, interface_of, keep_at, listening


def test_an_engine_on_one_node_stays_on_loopback_whatever_the_pool_says() -> None:
    environment = {"GLOO_SOCKET_IFNAME": "eth0"}
    keep_at(LOOPBACK, environment)
    assert environment == {
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "=lo",
    }


def test_between_nodes_an_interface_that_the_pool_names_is_taken() -> None:
    environment = {"NCCL_SOCKET_IFNAME": "ib0"}
    keep_at("127.0.0.2", environment)
    assert environment == {
        "VLLM_HOST_IP": "127.0.0.2",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "ib0",
    }


def test_an_address_that_is_not_ours_names_no_interface() -> None:
    assert interface_of("192.0.2.1") is None
    environment: dict[str, str] = {}
    keep_at("192.0.2.1", environment)
    assert environment == {"VLLM_HOST_IP": "192.0.2.1"}


@pytest.mark.parametrize(("address", "interface"), [("fd00::12", "eth1"), ("::1", "lo"), ("fd00::13", None)])
def test_an_ipv6_interface_is_read_from_the_kernels_table(
    tmp_path: Path, address: str, interface: str | None
) -> None:
    table = tmp_path / "if_inet6"
    table.write_text(
        "fd000000000000000000000000000012 02 40 00 80     eth1\n"
        "00000000000000000000000000000001 01 80 10 80       lo\n"
    )
    assert interface_of(address, table) == interface


def test_a_socket_listens_at_its_address_alone() -> None:
    port = free_port(LOOPBACK)
    with listening(LOOPBACK, port) as made:
        assert made.getsockname() == (LOOPBACK, port)
