"""The adapter of KubeRay on an API server in memory: what it tells of the world, and what it writes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from plinth.api.v1alpha1 import GPUPool
from plinth.cluster.capacity import CapacityAway, CapacityObservation, RayObservation
from plinth.cluster.kube.errors import KubeAway, KubeRefused, NotLeaderError
from plinth.cluster.kube.kinds import Kind
from plinth.cluster.kube.kuberay import KubeRayCapacity
from plinth.desired.ray_pods import RaySettings
from plinth.desired.serve_config import same_config
from plinth.domain.fleet import Node, NodeState, PoolPlan, WorkerGroupPlan
from plinth.tests.cluster.kube.fake_api_server import FakeApiServer
from plinth.tests.cluster.kube.fake_kuberay import CLUSTERS, SECRETS, FakeKubeRay
from plinth.tests.controllers.capacity_contract import make_config
from plinth.tests.domain.kube_builders import make_kube_pool

SETTINGS = RaySettings(namespace="plinth-system", image="plinth/engine:1.0", ray_version="2.57.0")


class OpenFence:
    leads = True

    def check(self) -> None:
        if not self.leads:
            raise NotLeaderError


class Scene:
    """A cluster with the adapter under test, and a planner that asks for what the test says."""

    def __init__(self, server: FakeApiServer) -> None:
        self.server = server
        self.kuberay = FakeKubeRay(server)
        self.pools: list[GPUPool] = [make_kube_pool()]
        self.fence = OpenFence()
        self.now = 1000.0
        self.wakes = 0
        self.capacity = KubeRayCapacity(
            server.client(),
            fence=self.fence,
            settings=SETTINGS,
            pools=lambda: self.pools,
            wake=self.wake,
            clock=lambda: self.now,
            dashboard=self.kuberay.dashboard,
        )

    def wake(self) -> None:
        self.wakes += 1

    async def start(self) -> None:
        self.capacity.start()
        await self.capacity.wait_synced()

    async def look(self) -> CapacityObservation:
        await pause()
        return await self.capacity.observe()

    async def only(self) -> RayObservation:
        (ray,) = (await self.look()).rays
        return ray

    async def resize(self, *plans: WorkerGroupPlan, retired: tuple[str, ...] = ()) -> bool:
        await pause()
        wrote = await self.capacity.resize([plan_for(*plans, retired=retired)], self.pools)
        await self.kuberay.settle()
        return wrote

    async def bring_up(self, workers: int) -> str:
        """The pool's RayCluster with so many workers; returns its name."""
        await self.look()
        await self.resize()
        potential = (await self.look()).potential
        await self.resize(WorkerGroupPlan(ray=potential[0].ray, group=potential[0].group, workers=workers))
        await self.look()
        return potential[0].ray

    def clusters(self) -> list[str]:
        return ["/".join(key[1:]) for key in self.server.objects if key[0] == CLUSTERS]

    def writes(self) -> list[tuple[str, str]]:
        return [each for each in self.server.writes if "rayclusters" in each[1]]


def plan_for(*groups: WorkerGroupPlan, retired: tuple[str, ...] = ()) -> PoolPlan:
    return PoolPlan(
        name="pool",
        accelerator="CPU",
        nodes=0,
        accelerators=0,
        accelerators_used=0,
        memory_bytes=0,
        memory_used_bytes=0,
        verdicts=(),
        workers=groups,
        retired=retired,
    )


async def pause() -> None:
    """Lets the watches see what was written."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    made = Scene(FakeApiServer())
    for name in ("n1", "n2", "n3"):
        made.kuberay.add_node(name)
    await made.start()
    yield made
    await made.capacity.close()
    await made.kuberay.close()


def present(nodes: tuple[Node, ...]) -> list[str]:
    return sorted(node.worker for node in nodes if node.state is NodeState.PRESENT)


def retiring(nodes: tuple[Node, ...]) -> list[str]:
    return sorted(node.worker for node in nodes if node.state is NodeState.RETIRING)


async def test_before_the_first_full_view_nothing_is_known() -> None:
    made = Scene(FakeApiServer())
    with pytest.raises(CapacityAway, match="have not been read yet"):
        await made.capacity.observe()
    await made.capacity.close()


async def test_a_pool_gets_its_ray_cluster_at_once_and_no_worker_that_nobody_asked_for(scene: Scene) -> None:
    assert (await scene.look()).rays == ()
    assert await scene.resize()
    (ray,) = scene.clusters()
    cluster = scene.server.objects[CLUSTERS, "plinth-system", ray.split("/")[1]]
    assert cluster["metadata"]["ownerReferences"][0]["name"] == "pool"
    assert [group["replicas"] for group in cluster["spec"]["workerGroupSpecs"]] == [0]
    assert scene.kuberay.pods(ray) == []


async def test_another_pool_can_be_supposed_and_what_there_is_stays_as_it_is(scene: Scene) -> None:
    assert scene.capacity.suppose(scene.pools) is None
    before = await scene.look()
    fewer = make_kube_pool(workers={"max": 1})
    supposed = scene.capacity.suppose([fewer])
    assert supposed is not None
    assert [node.pool for node in supposed.potential] == ["pool"]
    assert await scene.look() is before
    assert scene.writes() == []


async def test_what_could_be_brought_up_is_told_before_there_is_any_ray(scene: Scene) -> None:
    potential = (await scene.look()).potential
    assert len(potential) == 3
    assert {node.state for node in potential} == {NodeState.POTENTIAL}
    assert potential[0].ray.startswith("plinth-system/pool-")
    assert potential[0].memory_bytes == 31 * 2**30


async def test_workers_come_up_and_are_told_with_their_pod_their_group_and_their_machine(
    scene: Scene,
) -> None:
    ray = await scene.bring_up(2)
    found = await scene.only()
    assert (found.name, found.pool, found.retiring) == (ray, "pool", False)
    assert found.serve == {"applications": {}, "target_groups": []}
    assert present(found.nodes) == scene.kuberay.pods(ray)
    assert {node.group for node in found.nodes} == {"cpu-" + found.nodes[0].group[-6:]}
    assert {node.labels["kubernetes.io/hostname"] for node in found.nodes} == {"n1", "n2"}
    assert [node.worker for node in (await scene.look()).potential] == [""]


async def test_a_worker_on_its_way_is_told_as_such_and_is_not_asked_for_twice(scene: Scene) -> None:
    ray = await scene.bring_up(0)
    group = (await scene.look()).potential[0].group
    await scene.capacity.resize([plan_for(WorkerGroupPlan(ray=ray, group=group, workers=1))], scene.pools)
    await scene.kuberay.reconcile()
    potential = (await scene.look()).potential
    assert [node.worker for node in potential] == [*scene.kuberay.pods(ray), "", ""]


async def test_the_worker_that_goes_is_the_one_that_the_plan_names(scene: Scene) -> None:
    ray = await scene.bring_up(3)
    before = scene.kuberay.pods(ray)
    group = (await scene.only()).nodes[0].group
    await scene.resize(WorkerGroupPlan(ray=ray, group=group, workers=2, remove=(before[1],)))
    assert scene.kuberay.pods(ray) == [before[0], before[2]]
    assert present((await scene.only()).nodes) == [before[0], before[2]]
    await scene.resize(WorkerGroupPlan(ray=ray, group=group, workers=2))
    cluster = scene.server.objects[CLUSTERS, "plinth-system", ray.split("/")[1]]
    assert cluster["spec"]["workerGroupSpecs"][0]["scaleStrategy"] == {"workersToDelete": []}


async def test_nothing_is_written_that_is_already_so(scene: Scene) -> None:
    ray = await scene.bring_up(2)
    group = (await scene.only()).nodes[0].group
    before = scene.writes()
    for _ in range(3):
        assert not await scene.resize(WorkerGroupPlan(ray=ray, group=group, workers=2))
    assert scene.writes() == before


async def test_a_second_resize_before_the_watch_shows_the_first_writes_nothing(scene: Scene) -> None:
    await scene.look()
    assert await scene.capacity.resize([plan_for()], scene.pools)
    assert not await scene.capacity.resize([plan_for()], scene.pools)


async def test_somebody_elses_edit_is_undone(scene: Scene) -> None:
    ray = await scene.bring_up(1)
    group = (await scene.only()).nodes[0].group
    key = (CLUSTERS, "plinth-system", ray.split("/")[1])
    edited = {**scene.server.objects[key], "spec": {**scene.server.objects[key]["spec"], "rayVersion": "1.0"}}
    scene.server.put(CLUSTERS, edited)
    assert await scene.resize(WorkerGroupPlan(ray=ray, group=group, workers=1))
    assert scene.server.objects[key]["spec"]["rayVersion"] == "2.57.0"


async def test_while_nothing_changes_the_same_observation_is_given(scene: Scene) -> None:
    await scene.bring_up(2)
    first = await scene.look()
    assert await scene.look() is first
    scene.kuberay.heads[first.rays[0].name].ray.node_rows[0]["resources_total"]["CPU"] = 3.0
    second = await scene.look()
    assert second is not first
    assert second.rays[0].serve == first.rays[0].serve


async def test_a_pod_that_is_gone_takes_its_node_along_though_ray_lists_it_still(scene: Scene) -> None:
    ray = await scene.bring_up(2)
    first, second = scene.kuberay.pods(ray)
    await pause()
    scene.wakes = 0
    scene.kuberay.remove_pod(ray, first)
    await pause()
    assert scene.wakes == 1
    assert present((await scene.only()).nodes) == [second]
    assert len(scene.kuberay.heads[ray].ray.node_rows) == 2


async def test_a_pod_that_failed_is_as_good_as_gone_and_one_that_ends_retires(scene: Scene) -> None:
    ray = await scene.bring_up(2)
    failed, ending = scene.kuberay.pods(ray)
    scene.kuberay.change_pod(ray, failed, status={"phase": "Failed"})
    scene.kuberay.change_pod(
        ray, ending, status={}, deletionTimestamp="2026-01-01T00:00:00Z", finalizers=["f"]
    )
    nodes = (await scene.only()).nodes
    assert (present(nodes), retiring(nodes)) == ([], [ending])


async def test_a_cordoned_or_lost_machine_retires_its_worker(scene: Scene) -> None:
    ray = await scene.bring_up(2)
    first, second = scene.kuberay.pods(ray)
    scene.kuberay.change_node("n1", conditions=[{"type": "Ready", "status": "Unknown"}])
    nodes = (await scene.only()).nodes
    assert (present(nodes), retiring(nodes)) == ([second], [first])


async def test_a_worker_that_is_to_end_on_a_lost_machine_is_struck_off_and_no_other(
    scene: Scene, monkeypatch: Any
) -> None:
    ray = await scene.bring_up(2)
    on_lost, elsewhere = scene.kuberay.pods(ray)
    group = (await scene.only()).nodes[0].group
    scene.kuberay.change_node("n1", conditions=[{"type": "Ready", "status": "Unknown"}])
    struck: list[tuple[str, object]] = []

    async def delete(_kind: Kind, _namespace: str, name: str, **options: object) -> None:
        struck.append((name, options["grace_seconds"]))

    monkeypatch.setattr(scene.capacity._writer.client, "delete", delete)
    await scene.resize(WorkerGroupPlan(ray=ray, group=group, workers=2))
    assert struck == [], "a machine that is silent for a while may come back"
    for name in (on_lost, elsewhere):
        scene.kuberay.change_pod(
            ray, name, status={}, deletionTimestamp="2026-01-01T00:00:00Z", finalizers=["f"]
        )
    await scene.resize(WorkerGroupPlan(ray=ray, group=group, workers=2))
    assert struck == [(on_lost, 0)]


async def test_a_machines_heartbeat_wakes_nobody(scene: Scene) -> None:
    await scene.bring_up(1)
    await pause()
    scene.wakes = 0
    scene.kuberay.change_node("n1", lastHeartbeat="now")
    await pause()
    assert scene.wakes == 0
    scene.kuberay.change_node("n1", allocatable={"cpu": "1", "memory": "1Gi"})
    await pause()
    assert scene.wakes == 1


async def test_a_head_that_is_away_leaves_its_nodes_as_last_seen(scene: Scene) -> None:
    ray = await scene.bring_up(2)
    before = await scene.only()
    (head,) = scene.kuberay.pods(ray, kind="head")
    scene.kuberay.remove_pod(ray, head)
    found = await scene.only()
    assert (found.serve, found.nodes) == (None, before.nodes)
    with pytest.raises(CapacityAway):
        await scene.capacity.apply(ray, {"applications": []})
    await scene.kuberay.settle()
    back = await scene.only()
    assert (back.serve, back.nodes) == (before.serve, before.nodes)


async def test_a_worker_that_dies_while_the_head_is_away_is_missed(scene: Scene) -> None:
    ray = await scene.bring_up(2)
    await scene.kuberay.heads[ray].close()
    first, second = scene.kuberay.pods(ray)
    scene.kuberay.remove_pod(ray, first)
    found = await scene.only()
    assert (found.serve, present(found.nodes)) == (None, [second])


async def test_a_head_that_hangs_holds_up_one_pass_and_no_other(scene: Scene, monkeypatch: Any) -> None:
    ray = await scene.bring_up(1)
    monkeypatch.setattr("plinth.cluster.kube.kuberay_heads.PATIENCE_SECONDS", 0.5)
    head = scene.kuberay.heads[ray]
    head.answering.clear()
    started = time.monotonic()
    assert (await scene.only()).serve is None
    assert time.monotonic() - started > 0.4
    started = time.monotonic()
    assert (await scene.only()).serve is None
    assert time.monotonic() - started < 0.4
    scene.wakes = 0
    head.answering.set()
    async with asyncio.timeout(5):
        while not scene.wakes:
            await asyncio.sleep(0.001)
    assert (await scene.only()).serve is not None


async def test_two_who_look_at_once_both_see(scene: Scene) -> None:
    await scene.bring_up(1)
    one, other = await asyncio.gather(scene.capacity.observe(), scene.capacity.observe())
    assert one is other
    assert one.rays[0].serve is not None


async def test_a_token_that_was_made_anew_is_read_anew(scene: Scene) -> None:
    ray = await scene.bring_up(1)
    scene.kuberay.heads[ray].token = "another"
    assert (await scene.only()).serve is None
    secret = scene.server.objects[SECRETS, "plinth-system", ray.split("/")[1]]
    scene.server.put(SECRETS, {**secret, "data": {"auth_token": "YW5vdGhlcg=="}})
    assert (await scene.only()).serve is not None


async def test_a_config_is_put_and_listed_at_once_and_only_by_the_leader(scene: Scene) -> None:
    ray = await scene.bring_up(1)
    found = await scene.only()
    config = make_config(found.settings, found.nodes[0].node_id)
    await scene.capacity.apply(ray, config)
    serve = (await scene.only()).serve
    assert serve is not None
    assert same_config(config, serve)
    scene.fence.leads = False
    with pytest.raises(NotLeaderError):
        await scene.capacity.apply(ray, config)
    scene.pools = [make_kube_pool(ray={"image": "new"})]
    with pytest.raises(NotLeaderError):
        await scene.capacity.resize([plan_for()], scene.pools)
    assert len(scene.kuberay.heads[ray].ray.puts) == 1


async def test_what_replicas_are_told_fits_the_pods(scene: Scene) -> None:
    await scene.bring_up(1)
    settings = (await scene.only()).settings
    assert (settings.secret_file, settings.cache_dir) == ("/etc/plinth/engine/secret", "/var/cache/plinth")
    assert (settings.http_host, settings.http_port) == ("0.0.0.0", 8000)


async def test_another_image_is_a_second_ray_cluster_beside_the_first_which_goes_when_it_is_empty(
    scene: Scene,
) -> None:
    old = await scene.bring_up(2)
    group = (await scene.only()).nodes[0].group
    keep_old = WorkerGroupPlan(ray=old, group=group, workers=2)
    scene.pools = [make_kube_pool(ray={"image": "new"})]
    await scene.resize(keep_old)
    observed = await scene.look()
    new = next(ray.name for ray in observed.rays if ray.name != old)
    assert {ray.name: ray.retiring for ray in observed.rays} == {old: True, new: False}
    assert {node.ray for node in observed.potential} == {new}
    assert len(observed.potential) == 1
    assert len(retiring(next(ray.nodes for ray in observed.rays if ray.name == old))) == 2

    first, second = scene.kuberay.pods(old)
    taken_over = WorkerGroupPlan(ray=new, group=group, workers=1)
    await scene.resize(WorkerGroupPlan(ray=old, group=group, workers=1, remove=(first,)), taken_over)
    assert scene.kuberay.pods(old) == [second]
    assert len(scene.kuberay.pods(new)) == 1
    await scene.look()
    await scene.resize(WorkerGroupPlan(ray=old, group=group, workers=0, remove=(second,)), taken_over)
    await scene.look()
    await scene.resize(taken_over, retired=(old,))
    assert scene.clusters() == [new]


async def test_a_size_that_was_changed_by_hand_is_a_new_group_of_the_same_ray(scene: Scene) -> None:
    kind = {"name": "w", "max": 2, "cpus": 2, "memory": "8Gi"}
    scene.pools = [make_kube_pool(nodeTypes=[kind])]
    ray = await scene.bring_up(1)
    old = (await scene.only()).nodes[0].group
    scene.pools = [make_kube_pool(nodeTypes=[{**kind, "memory": "16Gi"}])]
    observed = await scene.look()
    assert [node.ray for node in observed.potential] == [ray]
    assert len(retiring(observed.rays[0].nodes)) == 1
    new = observed.potential[0].group
    (leaving,) = scene.kuberay.pods(ray)
    await scene.resize(
        WorkerGroupPlan(ray=ray, group=new, workers=1), WorkerGroupPlan(ray=ray, group=old, workers=1)
    )
    assert len(scene.kuberay.pods(ray)) == 2
    await scene.look()
    done = WorkerGroupPlan(ray=ray, group=new, workers=1)
    await scene.resize(done, WorkerGroupPlan(ray=ray, group=old, workers=0, remove=(leaving,)))
    await scene.look()
    await scene.resize(done)
    (cluster,) = (value for key, value in scene.server.objects.items() if key[0] == CLUSTERS)
    assert [group["groupName"] for group in cluster["spec"]["workerGroupSpecs"]] == [new]


async def test_workers_of_a_ray_that_does_not_answer_are_never_let_go(scene: Scene) -> None:
    ray = await scene.bring_up(2)
    group = (await scene.only()).nodes[0].group
    pods = scene.kuberay.pods(ray)
    await scene.kuberay.heads[ray].close()
    await scene.look()
    await scene.resize(WorkerGroupPlan(ray=ray, group=group, workers=0, remove=tuple(pods)))
    assert scene.kuberay.pods(ray) == pods
    scene.pools = []
    await scene.resize(WorkerGroupPlan(ray=ray, group=group, workers=0), retired=(ray,))
    assert scene.clusters() == [ray]


async def test_a_ray_that_never_came_up_can_be_let_go(scene: Scene) -> None:
    await scene.look()
    await scene.capacity.resize([plan_for()], scene.pools)
    (ray,) = scene.clusters()
    group = (await scene.look()).potential[0].group
    await scene.capacity.resize([plan_for(WorkerGroupPlan(ray=ray, group=group, workers=1))], scene.pools)
    await scene.kuberay.reconcile()
    scene.pools = []
    observed = await scene.look()
    assert len(retiring(observed.rays[0].nodes)) == 1
    await scene.resize(retired=(ray,))
    assert scene.clusters() == []


async def test_a_pool_that_is_being_deleted_brings_nothing_up_and_retires_what_it_has(scene: Scene) -> None:
    ray = await scene.bring_up(1)
    scene.pools = [make_kube_pool(deleted=True)]
    observed = await scene.look()
    assert observed.potential == ()
    assert observed.rays[0].retiring
    (pod,) = scene.kuberay.pods(ray)
    group = observed.rays[0].nodes[0].group
    await scene.resize(WorkerGroupPlan(ray=ray, group=group, workers=0, remove=(pod,)), retired=(ray,))
    assert scene.clusters() == []


async def test_a_refused_ray_cluster_is_its_pools_trouble_and_holds_up_no_other(scene: Scene) -> None:
    scene.pools = [make_kube_pool("bad", namespace="team-a"), make_kube_pool("good")]

    async def refuse(method: str, path: str) -> None:
        if method == "POST" and "/team-a/" in path:
            raise KubeRefused(422, "Invalid", "spec.x is not allowed")

    scene.server.before = refuse
    await scene.look()
    await scene.resize()
    observed = await scene.look()
    assert [ray.pool for ray in observed.rays] == ["good"]
    assert observed.troubles == {"bad": "its RayCluster was refused: spec.x is not allowed"}
    scene.server.before = no_trouble
    await scene.resize()
    assert len(scene.clusters()) == 1, "the same is not tried again at once"
    scene.now += 31
    await scene.resize()
    assert len(scene.clusters()) == 2
    assert (await scene.look()).troubles == {}


async def no_trouble(_method: str, _path: str) -> None:
    return None


async def test_an_api_server_that_is_away_is_told_as_capacity_away(scene: Scene) -> None:
    async def lose(method: str, path: str) -> None:
        if method == "POST" and "/team-a/" in path:
            raise KubeAway("lost")

    scene.pools = [make_kube_pool("bad", namespace="team-a"), make_kube_pool("good")]
    await scene.look()
    scene.server.before = lose
    with pytest.raises(CapacityAway, match="could not be written: lost"):
        await scene.resize()
    assert [name.split("/")[0] for name in scene.clusters()] == ["plinth-system"], (
        "the other pool got its own"
    )


async def test_why_a_pod_does_not_come_up_is_told_in_kubernetes_own_words(scene: Scene) -> None:
    ray = await scene.bring_up(0)
    group = (await scene.look()).potential[0].group
    await scene.capacity.resize([plan_for(WorkerGroupPlan(ray=ray, group=group, workers=1))], scene.pools)
    await scene.kuberay.reconcile()
    (pod,) = scene.kuberay.pods(ray)
    unschedulable = {
        "type": "PodScheduled",
        "reason": "Unschedulable",
        "message": "0/3 nodes: 3 Insufficient cpu.",
    }
    scene.kuberay.change_pod(ray, pod, status={"conditions": [unschedulable]})
    assert (await scene.look()).troubles == {
        "pool": f"pod {pod} cannot be scheduled: 0/3 nodes: 3 Insufficient cpu."
    }
    waiting = {"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}
    scene.kuberay.change_pod(ray, pod, status={"conditions": [], "containerStatuses": [waiting]})
    assert (await scene.look()).troubles == {"pool": f"pod {pod} does not start: ErrImagePull: no such image"}


async def test_a_dedicated_pools_namespace_gets_the_secrets_that_its_pods_mount(scene: Scene) -> None:
    source = {"metadata": {"name": "plinth-engine", "namespace": "plinth-system"}, "data": {"secret": "czE="}}
    scene.server.put(SECRETS, source)
    scene.pools = [make_kube_pool(namespace="team-a")]
    await scene.look()
    await scene.resize()
    copy = scene.server.objects[SECRETS, "team-a", "plinth-engine"]
    assert copy["data"] == {"secret": "czE="}
    assert [owner["name"] for owner in copy["metadata"]["ownerReferences"]] == ["pool"]
    assert scene.clusters()[0].startswith("team-a/pool-")
    scene.server.put(SECRETS, {**source, "data": {"secret": "czI="}})
    scene.now += 61
    await scene.resize()
    assert scene.server.objects[SECRETS, "team-a", "plinth-engine"]["data"] == {"secret": "czI="}


async def test_a_namespace_that_cannot_be_read_is_its_pools_trouble(scene: Scene, monkeypatch: Any) -> None:
    monkeypatch.setattr("plinth.cluster.kube.kuberay_watch.FIRST_SIGHT_SECONDS", 0.01)

    async def forbid(_method: str, path: str) -> None:
        if "/team-a/" in path:
            raise KubeRefused(403, "Forbidden", "no")

    scene.server.before = forbid
    scene.pools = [make_kube_pool("closed", namespace="team-a"), make_kube_pool("open")]
    observed = await scene.look()
    assert {node.pool for node in observed.potential} == {"open"}
    await scene.resize()
    assert [ray.pool for ray in (await scene.look()).rays] == ["open"]
    assert "plinth-namespace-access" in (await scene.look()).troubles["closed"]


@pytest.fixture
async def fleet(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    """4 pools of 250 workers, and 1,000 applications."""
    monkeypatch.setattr("plinth.cluster.kube.kuberay_heads.PATIENCE_SECONDS", 60.0)
    made = Scene(FakeApiServer())
    made.pools = [make_kube_pool(f"p{i}", nodeSelector={"pool": f"p{i}"}) for i in range(4)]
    for i in range(1000):
        made.kuberay.add_node(f"n{i:04}", pool=f"p{i % 4}", gpus=8)
    await made.start()
    await made.look()
    await made.resize()
    groups = {node.ray: node.group for node in (await made.look()).potential}
    await made.resize(*(WorkerGroupPlan(ray=ray, group=group, workers=250) for ray, group in groups.items()))
    for found in (await made.look()).rays:
        ids = [node.node_id for node in found.nodes]
        await made.capacity.apply(found.name, make_config(found.settings, *ids))
    yield made
    await made.capacity.close()
    await made.kuberay.close()


async def test_a_fleet_of_a_thousand_nodes_is_looked_at_in_a_moment(fleet: Scene) -> None:
    """Alone it takes 70 ms when all is new and 3 ms when nothing is; here most of the time is the fake heads' own."""
    first, took = await timed(fleet.look)
    assert sum(len(ray.nodes) for ray in first.rays) == 1000
    assert took < 3.0
    again, took = await timed(fleet.look)
    assert again is first
    assert took < 1.0
    head = next(iter(fleet.kuberay.heads.values()))
    head.ray.remove_behind_our_back(head.ray.names[0])
    changed, took = await timed(fleet.look)
    assert [old.serve is new.serve for old, new in zip(first.rays, changed.rays, strict=True)].count(
        False
    ) == 1
    assert took < 1.0


async def timed(look: Callable[[], Any]) -> tuple[CapacityObservation, float]:
    """Also the seconds of computing: the tests' machine may be busy with others."""
    started = time.process_time()
    return await look(), time.process_time() - started
