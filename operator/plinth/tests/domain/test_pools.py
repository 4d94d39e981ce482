from plinth.domain.fleet import Node
from plinth.domain.pools import resolve_pools
from plinth.tests.domain.builders import make_node, make_pool


def members(*pools_and_nodes: object) -> dict[str, tuple[str, list[str]]]:
    pools = [each for each in pools_and_nodes if not isinstance(each, Node)]
    nodes = [each for each in pools_and_nodes if isinstance(each, Node)]
    resolved = resolve_pools(pools, nodes)  # type: ignore[arg-type]  # sorted apart just above
    return {pool.name: (pool.accelerator, [node.node_id for node in pool.nodes]) for pool in resolved}


def test_without_any_pool_one_named_default_takes_all_nodes() -> None:
    assert members(make_node("b"), make_node("a")) == {"default": ("CPU", ["a", "b"])}


def test_auto_takes_the_accelerator_that_the_nodes_have_most_of() -> None:
    nodes = (
        make_node("cpu"),
        make_node("x", accelerators=2, accelerator="A100"),
        make_node("y", accelerators=8),
    )
    assert members(make_pool("all"), *nodes) == {"all": ("H200", ["y"])}


def test_a_pool_takes_the_nodes_that_carry_its_labels_and_kind() -> None:
    nodes = (
        make_node("x", accelerators=8, labels={"zone": "1"}),
        make_node("y", accelerators=8, labels={"zone": "2"}),
        make_node("z", accelerators=8, accelerator="A100", labels={"zone": "1"}),
    )
    assert members(make_pool("one", accelerator="H200", nodeSelector={"zone": "1"}), *nodes) == {
        "one": ("H200", ["x"])
    }


def test_a_cpu_pool_may_use_the_host_memory_of_accelerated_nodes() -> None:
    assert members(make_pool("c", accelerator="CPU"), make_node("x", accelerators=8)) == {"c": ("CPU", ["x"])}


def test_a_pool_without_nodes_is_there_and_empty() -> None:
    assert members(make_pool("p")) == {"p": ("", [])}
