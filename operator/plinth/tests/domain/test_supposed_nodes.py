"""Nodes that are stated, or supposed, where there is no fleet to look at."""

from __future__ import annotations

from typing import Any

import pytest

from plinth.api.v1alpha1 import GPUPool
from plinth.domain.pools import resolve_pools
from plinth.domain.quantities import GIB, MIB
from plinth.domain.supposed_nodes import StatedNodes, parse_nodes, suppose_fleet


def make_pool(name: str = "gpus", **spec: Any) -> GPUPool:
    return GPUPool.model_validate({"metadata": {"name": name}, "spec": spec})


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("2x8xH200", StatedNodes(nodes=2, each=8, kind="H200")),
        ("h200=2x8xH200", StatedNodes(nodes=2, each=8, kind="H200", pool="h200")),
        ("1x4xA100:80Gi", StatedNodes(nodes=1, each=4, kind="A100", memory_bytes=80 * GIB)),
        ("1x2xRTX-4090", StatedNodes(nodes=1, each=2, kind="RTX-4090")),
        ("2x16xcpu:64Gi", StatedNodes(nodes=2, each=16, kind="CPU", memory_bytes=64 * GIB)),
    ],
)
def test_nodes_are_stated_by_number_accelerators_and_kind(text: str, stated: StatedNodes) -> None:
    assert parse_nodes(text) == stated


@pytest.mark.parametrize("text", ["8xH200", "0x8xH200", "2x8x", "2x8xH200:80", "H200", "Pool=1x8xH200", ""])
def test_anything_else_is_refused_with_what_would_do(text: str) -> None:
    with pytest.raises(ValueError, match="as in 2x8xH200"):
        parse_nodes(text)


def test_cpu_nodes_must_say_how_much_memory_they_have() -> None:
    with pytest.raises(ValueError, match="as in 2x16xCPU:64Gi"):
        parse_nodes("2x16xCPU")


def test_stated_nodes_are_in_their_pool_with_the_memory_of_the_catalogue() -> None:
    fleet = suppose_fleet([make_pool("h200", accelerator="H200")], [parse_nodes("2x8xH200")])
    (pool,) = resolve_pools(fleet.pools, fleet.nodes)
    assert [node.node_id for node in pool.nodes] == ["h200-0001", "h200-0002"]
    assert {(node.accelerators, node.accelerator_memory_bytes) for node in pool.nodes} == {(8, 143_771 * MIB)}
    assert fleet.notes == ()


def test_without_a_pool_each_kind_gets_one_of_its_name() -> None:
    fleet = suppose_fleet([], [parse_nodes("2x8xH200"), parse_nodes("1x4xL4"), parse_nodes("big=1x8xB200")])
    pools = {pool.name: pool for pool in resolve_pools(fleet.pools, fleet.nodes)}
    assert {name: len(pool.nodes) for name, pool in pools.items()} == {"h200": 2, "l4": 1, "big": 1}
    assert pools["big"].accelerator == "B200"


def test_a_pool_may_be_named_by_a_product_and_its_nodes_by_another_of_its_names() -> None:
    fleet = suppose_fleet([make_pool(accelerator="A100")], [parse_nodes("1x8xA100-80GB")])
    (pool,) = resolve_pools(fleet.pools, fleet.nodes)
    assert [node.accelerator_memory_bytes for node in pool.nodes] == [81_920 * MIB]


def test_a_pool_without_stated_nodes_has_those_of_its_types() -> None:
    four = {"accelerators": 4, "acceleratorMemoryMib": 23_034, "cpus": 8, "memory": "64Gi"}
    types = [{"name": "four", "max": 3, **four}]
    fleet = suppose_fleet([make_pool(accelerator="L4", nodeTypes=types)], [])
    (pool,) = resolve_pools(fleet.pools, fleet.nodes)
    assert [node.accelerators for node in pool.nodes] == [4, 4, 4]
    assert {node.accelerator_memory_bytes for node in pool.nodes} == {23_034 * MIB}


def test_a_pool_that_says_nothing_gets_machines_as_they_are_usually_sold_and_a_note() -> None:
    fleet = suppose_fleet([make_pool("h200", accelerator="H200", workers={"max": 3})], [])
    assert [node.accelerators for node in fleet.nodes] == [8, 8, 8]
    assert fleet.notes == (
        "pool h200: 3 nodes of 8 x H200 supposed; state others with --nodes h200=2x8xH200",
    )


@pytest.mark.parametrize("kind", ["Auto", "CPU", "Novel9000"])
def test_where_nothing_can_be_supposed_there_is_no_node_and_a_note(kind: str) -> None:
    fleet = suppose_fleet([make_pool("some", accelerator=kind)], [])
    assert fleet.nodes == ()
    assert "state them, as in --nodes some=" in fleet.notes[0]


def test_a_cpu_pool_takes_stated_cores_and_memory() -> None:
    fleet = suppose_fleet([make_pool("cpu", accelerator="CPU")], [parse_nodes("2x16xCPU:64Gi")])
    (pool,) = resolve_pools(fleet.pools, fleet.nodes)
    assert {(node.cpus, node.memory_bytes, node.accelerators) for node in pool.nodes} == {(16, 64 * GIB, 0)}


@pytest.mark.parametrize(
    ("pools", "nodes", "said"),
    [
        ([], [], "there is no GPUPool; state what there is, as in --nodes 2x8xH200"),
        ([], ["1x8xH2000"], "H2000 is none of H200, .*--nodes 1x8xH2000:80Gi"),
        ([make_pool("a", accelerator="L4")], ["b=1x4xL4"], "there is no GPUPool b; there is a"),
        ([make_pool("a", accelerator="L4")], ["1x8xH200"], "no GPUPool takes H200: a is of L4"),
        ([make_pool("a"), make_pool("b")], ["1x8xH200"], "several GPUPools take H200; .*--nodes a=2x8xH200"),
    ],
)
def test_what_cannot_be_meant_is_refused(pools: list[GPUPool], nodes: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        suppose_fleet(pools, [parse_nodes(each) for each in nodes])
