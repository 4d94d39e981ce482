"""Workers follow the plan: asked for when replicas need them, let go by name when idle, emptied when they retire."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from plinth.api.v1alpha1 import GPUPool
from plinth.domain.fleet import (
    FleetPlan,
    FleetSnapshot,
    ModelKey,
    Node,
    NodeState,
    PoolPlan,
    Ray,
    Slot,
    SlotAction,
    SlotPhase,
)
from plinth.domain.planner import compute_plan
from plinth.domain.quantities import GIB
from plinth.domain.traffic import ReplicaState
from plinth.tests.domain.builders import (
    draining,
    make_model,
    make_node,
    make_pool,
    make_report,
    make_slot,
    make_snapshot,
    serving,
)

RAY, NEXT = "plinth-system/cpu-aaaaaaaa", "plinth-system/cpu-bbbbbbbb"
POOL = make_pool("cpu", accelerator="CPU", workers={"idleSeconds": 300})
NOW = 1000.0
WANTED = compute_plan(make_snapshot(), 0.0).models[0]


def worker(name: str, state: NodeState = NodeState.PRESENT, **changes: Any) -> Node:
    """A worker that holds one replica of the model `chat`."""
    node = make_node(name, memory_bytes=GIB)
    known = name if state is not NodeState.POTENTIAL else ""
    defaults = {"ray": RAY, "pool": "cpu", "group": "small", "worker": known, "state": state}
    return replace(node, **(defaults | changes))


def room_for(count: int, ray: str = RAY) -> tuple[Node, ...]:
    return tuple(worker(f"new:{i}", NodeState.POTENTIAL, ray=ray) for i in range(count))


def fleet(
    *nodes: Node, replicas: int = 1, pool: GPUPool = POOL, rays: tuple[Ray, ...] = (), **changes: Any
) -> FleetSnapshot:
    model = make_model(scaling={"minReplicas": replicas, "maxReplicas": max(replicas, 1)})
    rays = rays or (Ray(name=RAY, pool="cpu"),)
    return replace(make_snapshot(models=(model,), nodes=nodes, pools=(pool,), rays=rays), **changes)


def replica(ordinal: int, node_id: str, phase: SlotPhase = SlotPhase.READY, **changes: Any) -> Slot:
    """One of the model as it is wanted, so that only its place can be wrong."""
    plan = compute_plan(fleet(worker("any")), NOW).models[0]
    assert plan.spec is not None
    needs = plan.slots[0].needs.memory_bytes
    return make_slot(
        plan.revision,
        ordinal,
        spec=plan.spec,
        memory_bytes=needs,
        node_id=node_id,
        phase=phase,
        ray=RAY,
        **changes,
    )


def pool_plan(snapshot: FleetSnapshot) -> PoolPlan:
    return compute_plan(snapshot, NOW).pools[0]


def fates(plan: FleetPlan) -> dict[str, str]:
    return {f"{slot.name.ordinal} on {slot.node_id}": slot.action.value for slot in plan.models[0].slots}


def condition(plan: FleetPlan, kind: str) -> tuple[bool | None, str]:
    found = next(verdict for verdict in plan.models[0].verdicts if verdict.type == kind)
    return found.status, found.reason


def test_a_replica_without_a_place_asks_for_a_worker_and_waits_for_it() -> None:
    plan = compute_plan(fleet(*room_for(3), replicas=2), NOW)
    assert fates(plan) == {"0 on new:0": "Await", "1 on new:1": "Await"}
    assert [(group.group, group.workers) for group in plan.pools[0].workers] == [("small", 2)]
    assert plan.pools[0].reasons == ("small: 2 workers more, for replicas without a place",)
    assert condition(plan, "Placed") == (False, "WorkersStarting")
    assert condition(plan, "Ready") == (False, "WorkersStarting")


def test_what_is_there_is_filled_before_a_worker_is_asked_for() -> None:
    plan = compute_plan(fleet(worker("w1", idle_since=0.0), *room_for(2)), NOW)
    assert fates(plan) == {"0 on w1": "Create"}
    assert plan.pools[0].workers[0].workers == 1


def test_a_worker_on_its_way_is_waited_for_before_another_is_asked_for() -> None:
    coming = worker("pod:w7", NodeState.POTENTIAL, worker="w7")
    plan = compute_plan(fleet(*room_for(1), coming), NOW)
    assert fates(plan) == {"0 on pod:w7": "Await"}
    assert plan.pools[0].workers[0].workers == 1
    assert plan.pools[0].reasons == ()


def test_where_no_worker_could_be_brought_up_the_shortage_is_told() -> None:
    plan = compute_plan(fleet(worker("w1"), replicas=2, slots=(replica(0, "w1"),)), NOW)
    assert condition(plan, "Placed") == (False, "InsufficientCapacity")


def test_an_idle_worker_goes_by_name_once_its_time_is_over_and_the_others_stay() -> None:
    idle, young = worker("w2", idle_since=NOW - 301), worker("w3", idle_since=NOW - 10)
    plan = compute_plan(fleet(worker("w1"), idle, young, slots=(replica(0, "w1"),)), NOW)
    group = plan.pools[0].workers[0]
    assert (group.workers, group.remove) == (2, ("w2",))
    assert plan.pools[0].reasons == ("small: w2 goes, idle for 5 min",)
    assert plan.wake_at == NOW - 10 + 300


def test_the_least_number_of_workers_stays_idle_and_is_brought_up_in_advance() -> None:
    pool = make_pool("cpu", accelerator="CPU", workers={"min": 2, "idleSeconds": 0})
    old, older = worker("w1", idle_since=500.0), worker("w2", idle_since=400.0)
    assert pool_plan(fleet(old, older, replicas=0, pool=pool)).workers[0].remove == ()
    third = worker("w3", idle_since=900.0)
    assert pool_plan(fleet(old, older, third, replicas=0, pool=pool)).workers[0].remove == ("w2",)
    assert pool_plan(fleet(*room_for(5), replicas=0, pool=pool)).workers[0].workers == 2


def test_a_worker_whose_replica_is_still_stopping_is_not_idle() -> None:
    going = replica(0, "w1", SlotPhase.STOPPING)
    pool = make_pool("cpu", accelerator="CPU", workers={"idleSeconds": 0})
    assert pool_plan(fleet(worker("w1"), replicas=0, pool=pool, slots=(going,))).workers[0].workers == 1


def replaced(*nodes: Node, **changes: Any) -> FleetSnapshot:
    rays = (Ray(name=RAY, pool="cpu", retiring=True), Ray(name=NEXT, pool="cpu"))
    return fleet(*nodes, rays=rays, **changes)


def test_a_new_ray_cluster_takes_over_slot_by_slot_where_there_is_room_beside_the_old() -> None:
    old = worker("w1", NodeState.RETIRING)
    beside = worker("w9", ray=NEXT)
    both = (replica(0, "w1"),)
    plan = compute_plan(replaced(old, beside, slots=both), NOW)
    assert fates(plan) == {"0 on w1": "Keep", "1 on w9": "Create"}
    assert plan.models[0].slots[1].ray == NEXT

    ready = (*both, replace(replica(1, "w9"), ray=NEXT))
    plan = compute_plan(replaced(old, beside, slots=ready, report=make_report()), NOW)
    assert fates(plan)["0 on w1"] == "Drain"

    idle = make_report(replicas={str(both[0].name): draining(0), str(ready[1].name): serving()})
    plan = compute_plan(replaced(old, beside, slots=ready, report=idle), NOW)
    assert fates(plan)["0 on w1"] == "Remove"


def test_an_old_ray_cluster_is_retired_when_nothing_of_it_is_left_and_not_before() -> None:
    beside = worker("w9", ray=NEXT)
    moved = replace(replica(1, "w9"), ray=NEXT)
    stopping = replica(0, "w1", SlotPhase.STOPPING)
    old = worker("w1", NodeState.RETIRING)
    assert pool_plan(replaced(old, beside, slots=(moved, stopping))).retired == ()
    plan = pool_plan(replaced(old, beside, slots=(moved,)))
    assert plan.retired == (RAY,)
    assert [(group.ray, group.workers, group.remove) for group in plan.workers] == [
        (RAY, 0, ("w1",)),
        (NEXT, 1, ()),
    ]


def test_without_room_beside_the_old_one_worker_at_a_time_is_emptied_for_its_machine() -> None:
    """Both machines hold old workers; the new RayCluster gets the first machine when its worker is gone."""
    old = (worker("w1", NodeState.RETIRING), worker("w2", NodeState.RETIRING))
    slots = (replica(0, "w1"), replica(1, "w2"))
    plan = compute_plan(replaced(*old, replicas=2, slots=slots, report=make_report()), NOW)
    assert sorted(fates(plan).values()) == ["Drain", "Keep"]
    assert any("drains first, 1 replica serve" in reason for reason in plan.models[0].reasons)

    gone = slots[1:] if fates(plan)["0 on w1"] == "Drain" else slots[:1]
    waiting = compute_plan(replaced(*old, replicas=2, slots=gone, report=make_report()), NOW)
    assert list(fates(waiting).values()) == ["Keep"], "the second stays while the first is on its way out"
    assert len(waiting.pools[0].workers[0].remove) == 1

    left = next(node for node in old if node.node_id == gone[0].node_id)
    after = compute_plan(
        replaced(left, *room_for(1, NEXT), replicas=2, slots=gone, report=make_report()), NOW
    )
    assert sorted(fates(after).values()) == ["Await", "Keep"]


def test_a_retiring_ray_that_is_silent_does_not_hold_up_its_successor() -> None:
    rays = (Ray(name=RAY, pool="cpu", retiring=True, answers=False), Ray(name=NEXT, pool="cpu"))
    snapshot = fleet(
        worker("w1", NodeState.RETIRING), worker("w9", ray=NEXT), rays=rays, slots=(replica(0, "w1"),)
    )
    assert fates(compute_plan(snapshot, NOW)) == {"0 on w1": "Keep", "1 on w9": "Create"}


def test_a_silent_ray_freezes_its_own_pool_only() -> None:
    other = make_pool("other", accelerator="CPU")
    models = (make_model("chat", pool="cpu"), make_model("mail", pool="other"))
    nodes = (worker("w1"), worker("w5", pool="other", ray="x/other-1"))
    rays = (Ray(name=RAY, pool="cpu", answers=False), Ray(name="x/other-1", pool="other"))
    plan = compute_plan(make_snapshot(models=models, nodes=nodes, pools=(POOL, other), rays=rays), NOW)
    created = {model.key.name: [slot.action for slot in model.slots] for model in plan.models}
    assert created == {"chat": [], "mail": [SlotAction.CREATE]}
    assert {pool.name: pool.verdicts[0].reason for pool in plan.pools} == {
        "cpu": "CapacityAway",
        "other": "CapacityReady",
    }


def test_replicas_on_a_ray_that_was_never_seen_keep_the_routes_that_the_gateway_has() -> None:
    model = make_model(status={"pool": "cpu"})
    rays = (Ray(name=RAY, pool="cpu", answers=False, seen=False),)
    snapshot = make_snapshot(models=(model, make_model("new")), nodes=(), pools=(POOL,), rays=rays)
    assert compute_plan(snapshot, NOW).unknown_routes == {"default/chat"}


def test_a_pool_that_is_deleted_lets_its_replicas_finish_and_then_goes() -> None:
    pool = POOL.model_copy(
        update={"metadata": POOL.metadata.model_copy(update={"deletion_timestamp": "2026-01-01T00:00:00Z"})}
    )
    slot = replica(0, "w1")
    rays = (Ray(name=RAY, pool="cpu", retiring=True),)
    busy = fleet(worker("w1", NodeState.RETIRING), pool=pool, rays=rays, slots=(slot,), report=make_report())
    plan = compute_plan(busy, NOW)
    assert fates(plan) == {"0 on w1": "Drain"}
    assert plan.routes.models[0].replicas[0].state is ReplicaState.DRAINING
    assert plan.pools[0].verdicts[0].reason == "Deleting"
    done = pool_plan(replace(busy, slots=()))
    assert done.retired == (RAY,)


def test_a_pool_of_one_namespace_refuses_the_models_of_others_and_says_whose_it_is() -> None:
    pool = make_pool("cpu", accelerator="CPU", namespace="team-a")
    plan = compute_plan(make_snapshot(nodes=(worker("w1"),), pools=(pool,)), NOW)
    accepted = plan.models[0].verdicts[0]
    assert (accepted.status, accepted.reason) == (False, "PoolNotFound")
    assert "cpu serves team-a only" in accepted.message
    ours = make_model(namespace="team-a")
    plan = compute_plan(make_snapshot(models=(ours,), nodes=(worker("w1"),), pools=(pool,)), NOW)
    assert plan.models[0].key == ModelKey("team-a", "chat")
    assert [slot.action for slot in plan.models[0].slots] == [SlotAction.CREATE]


def test_a_model_told_to_run_on_another_pool_moves_there_without_a_gap() -> None:
    other = make_pool("other", accelerator="CPU")
    nodes = (worker("w1"), worker("w5", pool="other", ray="x/other-1"))
    rays = (Ray(name=RAY, pool="cpu"), Ray(name="x/other-1", pool="other"))
    snapshot = fleet(*nodes, rays=rays, slots=(replica(0, "w1"),))
    moved = replace(snapshot, pools=(POOL, other), models=(make_model(pool="other"),))
    assert fates(compute_plan(moved, NOW)) == {"0 on w1": "Keep", "1 on w5": "Create"}
