"""Ray's nodes joined with pods and Kubernetes nodes, and the workers that could be brought up."""

from __future__ import annotations

from plinth.api.v1alpha1 import GPUPool
from plinth.domain.fleet import Node, NodeState
from plinth.domain.node_types import KubeNode, node_types
from plinth.domain.worker_nodes import RayStanding, Worker, potential_nodes, worker_nodes
from plinth.tests.domain.builders import make_node
from plinth.tests.domain.kube_builders import make_h200_node, make_kube_pool, make_worker

RAY = "plinth-system/pool-11111111"
TWO = {"name": "w", "max": 2, "cpus": 4, "memory": "8Gi"}


def make_standing(
    pool: GPUPool | None = None,
    *,
    name: str = RAY,
    current: bool = True,
    gone: bool = False,
    groups: frozenset[str] = frozenset(),
) -> RayStanding:
    pool = None if gone else pool or make_kube_pool()
    return RayStanding(name=name, pool_name="pool", pool=pool, current=current, groups=groups)


def listed(node_id: str = "ray-1", address: str = "10.0.0.1") -> Node:
    node = make_node(node_id, labels={"ray.io/node-id": node_id})
    return Node(**{**node.__dict__, "address": address})


def hosts(*nodes: KubeNode) -> dict[str, KubeNode]:
    return {node.name: node for node in nodes or (make_h200_node("g1"), make_h200_node("g2"))}


def states(
    standing: RayStanding, *workers: Worker, on: dict[str, KubeNode] | None = None
) -> dict[str, NodeState]:
    found = [listed(f"ray-{worker.name}", worker.address) for worker in workers]
    return {
        node.worker: node.state
        for node in worker_nodes(standing, found, workers, hosts() if on is None else on)
    }


def test_a_ray_node_is_its_pods_and_has_the_labels_of_its_machine() -> None:
    machine = make_h200_node("g1", labels={"topology.kubernetes.io/zone": "z1"})
    (node,) = worker_nodes(make_standing(), [listed()], [make_worker()], hosts(machine))
    assert (node.ray, node.pool, node.group, node.worker) == (RAY, "pool", "h200-x8-abc123", "w1")
    assert node.state is NodeState.PRESENT
    assert node.labels["topology.kubernetes.io/zone"] == "z1"
    assert node.labels["ray.io/node-id"] == "ray-1"


def test_a_node_without_a_living_pod_is_not_there_whatever_ray_says() -> None:
    found = [listed("head", "10.0.0.99"), listed("dead", "10.0.0.1")]
    assert worker_nodes(make_standing(), found, [], hosts()) == ()


def test_of_two_nodes_with_one_address_the_later_one_is_there() -> None:
    found = [listed("before"), listed("now")]
    assert [each.node_id for each in worker_nodes(make_standing(), found, [make_worker()], hosts())] == [
        "now"
    ]


def test_another_rays_pod_with_the_same_address_is_not_joined() -> None:
    stranger = make_worker(ray="elsewhere/other-11111111")
    assert worker_nodes(make_standing(), [listed()], [stranger], hosts()) == ()


def test_workers_retire_with_their_ray_their_pool_their_pod_and_their_machine() -> None:
    retiring = {"w1": NodeState.RETIRING}
    assert states(make_standing(), make_worker()) == {"w1": NodeState.PRESENT}
    assert states(make_standing(current=False), make_worker()) == retiring
    assert states(make_standing(gone=True), make_worker()) == retiring
    assert states(make_standing(make_kube_pool(deleted=True)), make_worker()) == retiring
    assert states(make_standing(), make_worker(leaving=True)) == retiring
    assert states(make_standing(), make_worker(), on=hosts(make_h200_node("g1", ready=False))) == retiring
    assert states(make_standing(), make_worker(), on=hosts(make_h200_node("g1", cordoned=True))) == retiring
    assert states(make_standing(), make_worker(), on={}) == retiring


def test_a_worker_retires_when_the_pool_no_longer_selects_its_machine() -> None:
    pool = make_kube_pool(nodeSelector={"rack": "r1"})
    assert states(make_standing(pool), make_worker()) == {"w1": NodeState.RETIRING}


def test_a_worker_of_a_size_that_was_changed_by_hand_retires() -> None:
    pool = make_kube_pool(nodeTypes=[TWO])
    (kind,) = node_types(pool, [])
    standing = make_standing(pool, groups=frozenset({kind.name}))
    found = states(
        standing,
        make_worker("w1", group=kind.name),
        make_worker("w2", group="w-before", address="10.0.0.2", host="g2"),
    )
    assert found == {"w1": NodeState.PRESENT, "w2": NodeState.RETIRING}


def test_a_worker_whose_machine_lost_its_device_plugin_stays() -> None:
    machine = make_h200_node("g1", accelerators=0)
    assert states(make_standing(), make_worker(), on=hosts(machine)) == {"w1": NodeState.PRESENT}


def test_a_worker_on_its_way_that_is_no_longer_wanted_can_be_named() -> None:
    coming = make_worker(host="", address="", started=False)
    (node,) = worker_nodes(make_standing(current=False), [], [coming], hosts())
    assert (node.worker, node.state, node.accelerators) == ("w1", NodeState.RETIRING, 0)
    assert worker_nodes(make_standing(), [], [coming], hosts()) == ()


def potential(
    pool: GPUPool,
    *workers: Worker,
    joined: set[str] | None = None,
    machines: tuple[KubeNode, ...] = (make_h200_node("g1"), make_h200_node("g2")),
    standing: RayStanding | None = None,
) -> list[tuple[str, str]]:
    kinds = node_types(pool, machines)
    found = potential_nodes(
        standing or make_standing(pool),
        kinds,
        workers,
        joined=joined or set(),
        labels={kind.name: {} for kind in kinds},
    )
    assert all(node.state is NodeState.POTENTIAL for node in found)
    return [(node.node_id, node.worker) for node in found]


def group_of(pool: GPUPool) -> str:
    return node_types(pool, [make_h200_node("g1")])[0].name


def test_each_free_machine_could_hold_a_worker() -> None:
    pool = make_kube_pool()
    group = group_of(pool)
    assert potential(pool) == [(f"new:pool/{group}/0", ""), (f"new:pool/{group}/1", "")]


def test_what_a_worker_would_be_is_told_as_ray_will_tell_it() -> None:
    pool = make_kube_pool()
    kinds = node_types(pool, [make_h200_node("g1", labels={"zone": "z"})])
    label = {"plinth.dev/engines": "VLLM"}
    (node,) = potential_nodes(make_standing(pool), kinds, [], joined=set(), labels={kinds[0].name: label})
    assert (node.accelerator, node.accelerators, node.accelerator_memory_bytes) == ("H200", 8, 143771 * 2**20)
    assert (node.cpus, node.memory_bytes) == (kinds[0].ray_cpus, kinds[0].ray_memory_bytes)
    assert node.labels["zone"] == "z"
    assert node.labels["plinth.dev/engines"] == "VLLM"


def test_a_machine_with_a_worker_of_any_pool_is_taken() -> None:
    pool = make_kube_pool()
    stranger = make_worker(pool="other", ray="plinth-system/other-22222222", host="g2")
    mine = make_worker("w1", group=group_of(pool), host="g1")
    assert potential(pool, stranger, mine, joined={"w1"}) == []


def test_a_worker_on_its_way_comes_first_and_is_named() -> None:
    pool = make_kube_pool()
    group = group_of(pool)
    unscheduled = make_worker("w1", group=group, host="", address="")
    assert potential(pool, unscheduled) == [(f"new:pool/{group}/0", "w1"), (f"new:pool/{group}/1", "")]
    scheduled = make_worker("w1", group=group, host="g1", address="")
    assert potential(pool, scheduled) == [(f"new:pool/{group}/0", "w1"), (f"new:pool/{group}/1", "")]
    assert potential(pool, scheduled, joined={"w1"}) == [(f"new:pool/{group}/0", "")]


def test_the_pools_bound_counts_every_worker_it_has() -> None:
    pool = make_kube_pool(workers={"max": 2})
    old = make_worker("old", ray="plinth-system/pool-00000000", host="g9", group="h200-x8-old000")
    machines = tuple(make_h200_node(f"g{i}") for i in range(5))
    assert len(potential(pool, machines=machines)) == 2
    assert len(potential(pool, old, machines=machines)) == 1


def test_a_types_bound_counts_those_of_an_earlier_size_and_an_earlier_ray() -> None:
    pool = make_kube_pool(nodeTypes=[TWO])
    assert len(potential(pool)) == 2
    old = make_worker("old", ray="plinth-system/pool-00000000", group="w-before")
    other = make_worker("other", group="x-before")
    assert len(potential(pool, old, other)) == 1


def test_nothing_is_brought_up_for_a_ray_that_is_to_go() -> None:
    pool = make_kube_pool()
    assert potential(pool, standing=make_standing(pool, current=False)) == []
    assert potential(make_kube_pool(deleted=True)) == []


def test_a_worker_that_is_leaving_is_neither_on_its_way_nor_is_its_machine_free() -> None:
    pool = make_kube_pool()
    leaving = make_worker("w1", group=group_of(pool), host="g1", leaving=True)
    assert [worker for _, worker in potential(pool, leaving)] == [""]
