"""Which worker types a pool has, and that nodes which come and go leave them as they are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plinth.domain.node_types import KubeNode, Taint, is_usable, node_types, selects
from plinth.domain.quantities import GIB
from plinth.tests.domain.kube_builders import make_h200_node, make_kube_node, make_kube_pool

DEDICATED = Taint(key="team", value="a", effect="NoSchedule")


def test_a_node_with_accelerators_holds_one_worker_with_all_of_them_and_most_of_the_rest() -> None:
    (kind,) = node_types(make_kube_pool(), [make_h200_node("g1"), make_h200_node("g2")])
    assert kind.name.startswith("h200-x8-")
    assert (kind.accelerator, kind.accelerators, kind.accelerator_memory_mib) == ("H200", 8, 143771)
    assert 0.74 * 191_500 < kind.cpu_thousandths <= 0.8 * 191_500
    assert 0.74 * 2000 * GIB < kind.memory_bytes <= 0.8 * 2000 * GIB
    assert kind.nodes == ("g1", "g2")
    assert kind.node_selector == {
        "node.kubernetes.io/instance-type": "p5en.48xlarge",
        "nvidia.com/gpu.product": "NVIDIA-H200",
    }
    assert kind.ray_labels == {
        "plinth.dev/accelerator": "H200",
        "plinth.dev/accelerator-memory-mib": "143771",
    }


def test_ray_hands_out_less_than_the_pod_has_since_its_own_processes_live_there_too() -> None:
    (kind,) = node_types(make_kube_pool(accelerator="CPU"), [make_kube_node(cpus=2, memory_gib=24)])
    assert (kind.accelerator, kind.ray_cpus, kind.memory_bytes) == ("CPU", 1, 12 * GIB)
    assert kind.ray_memory_bytes == 11 * GIB
    assert kind.ray_labels == {}


def test_nodes_of_one_kind_that_differ_by_a_little_are_one_type() -> None:
    nodes = [make_h200_node(f"g{i}", memory_gib=2000 + i / 10, cpus=191.5 + i / 100) for i in range(8)]
    assert len(node_types(make_kube_pool(), nodes)) == 1


@given(st.lists(st.sampled_from("abcdef"), unique=True, min_size=1))
def test_a_nodes_type_depends_on_no_other_node(present: list[str]) -> None:
    sizes = {"a": 64, "b": 64, "c": 65, "d": 128, "e": 512, "f": 511}
    alone = {
        name: node_types(make_kube_pool(), [make_kube_node(name, memory_gib=sizes[name])])[0].name
        for name in present
    }
    together = node_types(
        make_kube_pool(), [make_kube_node(name, memory_gib=sizes[name]) for name in present]
    )
    assert {node: kind.name for kind in together for node in kind.nodes} == alone


def test_auto_takes_the_accelerator_that_there_is_most_of() -> None:
    a100 = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}
    nodes = [
        make_kube_node("cpu"),
        make_h200_node("g1"),
        make_h200_node("g2", labels=a100),
        make_h200_node("g3"),
    ]
    assert {kind.accelerator for kind in node_types(make_kube_pool(), nodes)} == {"H200"}
    assert {kind.accelerator for kind in node_types(make_kube_pool(accelerator="CPU"), nodes)} == {"CPU"}


def test_a_node_whose_device_plugin_is_away_is_no_cpu_node() -> None:
    lost = make_kube_node("g2", labels={"nvidia.com/gpu.product": "NVIDIA-H200"})
    (kind,) = node_types(make_kube_pool(), [make_h200_node("g1"), lost])
    assert kind.nodes == ("g1",)
    assert node_types(make_kube_pool(accelerator="CPU"), [lost]) == ()


def test_only_nodes_that_carry_the_selectors_labels_count() -> None:
    pool = make_kube_pool(nodeSelector={"rack": "r1"})
    nodes = [make_kube_node("n1", labels={"rack": "r1"}), make_kube_node("n2", labels={"rack": "r2"})]
    (kind,) = node_types(pool, nodes)
    assert kind.nodes == ("n1",)
    assert kind.node_selector == {"rack": "r1"}
    assert kind.labels["rack"] == "r1"


def test_a_node_that_cannot_be_used_now_keeps_its_type_alive() -> None:
    for node in (
        make_h200_node(ready=False),
        make_h200_node(cordoned=True),
        make_h200_node(taints=(Taint(key="node.kubernetes.io/unreachable", value="", effect="NoSchedule"),)),
    ):
        (kind,) = node_types(make_kube_pool(), [node])
        assert kind.nodes == (), node


def test_a_taint_that_says_what_a_node_is_for_keeps_it_out_unless_it_is_tolerated() -> None:
    node = make_kube_node(taints=(DEDICATED,))
    assert not selects(make_kube_pool(), node)
    for toleration in (
        {"key": "team", "value": "a"},
        {"key": "team", "operator": "Exists"},
        {"operator": "Exists"},
        {"key": "team", "value": "a", "effect": "NoSchedule"},
    ):
        pool = make_kube_pool(workers={"tolerations": [toleration]})
        assert selects(pool, node), toleration
        assert is_usable(pool, node), toleration
    for toleration in ({"key": "team", "value": "b"}, {"key": "team", "value": "a", "effect": "NoExecute"}):
        assert not selects(make_kube_pool(workers={"tolerations": [toleration]}), node), toleration


def test_the_usual_taint_of_accelerated_nodes_keeps_nothing_out() -> None:
    taint = Taint(key="nvidia.com/gpu", value="present", effect="NoSchedule")
    assert is_usable(make_kube_pool(), make_h200_node(taints=(taint,)))


def test_types_by_hand_are_taken_as_they_are_said() -> None:
    pool = make_kube_pool(
        accelerator="H200",
        nodeSelector={"zone": "z"},
        nodeTypes=[
            {
                "name": "big",
                "max": 4,
                "accelerators": 8,
                "acceleratorMemoryMib": 1000,
                "cpus": 96,
                "memory": "1Ti",
            },
            {
                "name": "small",
                "max": 9,
                "accelerators": 1,
                "acceleratorMemoryMib": 500,
                "cpus": 8,
                "memory": "64Gi",
                "nodeSelector": {"a": "b"},
            },
        ],
    )
    big, small = node_types(pool, [make_kube_node()])
    assert big.name.startswith("big-")
    assert (big.most, big.accelerator, big.accelerators, big.memory_bytes) == (4, "H200", 8, 1024 * GIB)
    assert (big.alone, big.nodes) == (False, ())
    assert small.node_selector == {"zone": "z", "a": "b"}
    assert small.accelerator_memory_mib == 500


def test_another_size_is_another_group_and_another_bound_is_not() -> None:
    def name(**changes: object) -> str:
        given = {"name": "w", "max": 2, "cpus": 4, "memory": "8Gi", **changes}
        return node_types(make_kube_pool(nodeTypes=[given]), [])[0].name

    assert name() == name(max=7)
    assert len({name(), name(memory="9Gi"), name(cpus=5), name(nodeSelector={"a": "b"})}) == 4


def test_names_are_stable() -> None:
    """A digest that changed with a version of Plinth would replace every worker of every pool."""
    (kind,) = node_types(make_kube_pool(nodeTypes=[{"name": "w", "max": 2, "cpus": 4, "memory": "8Gi"}]), [])
    (found,) = node_types(make_kube_pool(), [make_h200_node()])
    assert (kind.name, found.name) == ("w-e51e19", "h200-x8-1fbed5")


def test_a_thousand_nodes_are_sorted_in_a_moment() -> None:
    nodes: list[KubeNode] = [make_h200_node(f"g{i:04}") for i in range(1000)]
    (kind,) = node_types(make_kube_pool(), nodes)
    assert len(kind.nodes) == 1000
