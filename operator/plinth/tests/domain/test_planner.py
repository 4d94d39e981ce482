from dataclasses import replace

import pytest

from plinth.domain.fleet import (
    ArtifactRefusal,
    FailureRecord,
    FleetPlan,
    FleetSnapshot,
    ModelKey,
    ModelPlan,
    Ray,
    Slot,
    SlotAction,
    SlotName,
    SlotPhase,
    SlotPlace,
)
from plinth.domain.planner import compute_plan
from plinth.domain.prose import describe
from plinth.domain.quantities import GIB, MIB
from plinth.domain.traffic import Availability, LoadReport, ModelLoad, ReplicaState
from plinth.tests.domain.builders import (
    dead,
    draining,
    make_model,
    make_node,
    make_pool,
    make_qwen_artifact,
    make_report,
    make_slot,
    make_snapshot,
    make_window,
    serving,
)

CHAT = ModelKey("default", "chat")


def plan_of(snapshot: FleetSnapshot, now: float = 1000.0) -> FleetPlan:
    return compute_plan(snapshot, now)


def only(plan: FleetPlan) -> ModelPlan:
    assert len(plan.models) == 1
    return plan.models[0]


def actions(plan: FleetPlan) -> dict[str, str]:
    return {
        f"{slot.name.revision}.{slot.name.ordinal}": slot.action.value
        for model in plan.models
        for slot in model.slots
    }


def running(count: int = 1, **changes: object) -> tuple[Slot, ...]:
    """Replicas of exactly what a plain `chat` asks for."""
    fresh = only(plan_of(make_snapshot()))
    return tuple(
        make_slot(
            fresh.revision,
            number,
            spec=fresh.spec,
            memory_bytes=fresh.slots[0].needs.memory_bytes,
            **changes,  # type: ignore[arg-type]
        )
        for number in range(count)
    )


def test_the_first_plan_creates_a_replica_and_wants_its_request_held() -> None:
    plan = plan_of(make_snapshot())
    slot = only(plan).slots[0]
    assert (slot.action, slot.node_id, slot.name.ordinal) == (SlotAction.CREATE, "node-1", 0)
    assert slot.name.revision == only(plan).revision
    route = plan.routes.models[0]
    assert (route.availability, route.replicas) == (Availability.AVAILABLE, ())
    assert route.names == ("chat", "default/chat")


def test_a_ready_replica_is_routed_to_and_a_starting_one_is_not() -> None:
    ready, starting = running(2)
    snapshot = make_snapshot(
        models=(make_model(scaling={"minReplicas": 2, "maxReplicas": 2}),),
        slots=(ready, replace(starting, phase=SlotPhase.LOADING)),
    )
    replicas = plan_of(snapshot).routes.models[0].replicas
    assert [(each.slot, each.state, each.path) for each in replicas] == [
        (str(ready.name), ReplicaState.READY, f"/{ready.name}")
    ]


def test_a_draining_replica_stays_listed_as_draining_until_it_goes() -> None:
    surplus = running(2)
    report = make_report(replicas={str(surplus[1].name): draining(in_flight=1)})
    plan = plan_of(make_snapshot(slots=surplus, report=report))
    assert [each.state for each in plan.routes.models[0].replicas] == [
        ReplicaState.READY,
        ReplicaState.DRAINING,
    ]
    done = make_report(replicas={str(surplus[1].name): draining()})
    plan = plan_of(make_snapshot(slots=surplus, report=done))
    assert [each.state for each in plan.routes.models[0].replicas] == [ReplicaState.READY]
    assert only(plan).slots[1].action is SlotAction.REMOVE


@pytest.mark.parametrize(
    "report",
    [
        None,
        make_report(),
        make_report(replicas={str(SlotName(CHAT, "x", 1)): draining()}),
    ],
)
def test_a_replica_is_not_removed_on_missing_or_foreign_word(report: LoadReport | None) -> None:
    assert only(plan_of(make_snapshot(slots=running(2), report=report))).slots[1].action is SlotAction.DRAIN


def test_a_replica_listed_as_ready_is_not_gone_though_it_is_idle() -> None:
    slots = running(2)
    report = make_report(replicas={str(slot.name): serving() for slot in slots})
    assert only(plan_of(make_snapshot(slots=slots, report=report))).slots[1].action is SlotAction.DRAIN


def test_a_starting_replica_that_is_not_wanted_goes_at_once() -> None:
    first, second = running(2)
    plan = plan_of(make_snapshot(slots=(first, replace(second, phase=SlotPhase.LOADING))))
    assert only(plan).slots[1].action is SlotAction.REMOVE


def test_a_replica_that_the_gateway_lost_is_replaced_and_not_routed_to() -> None:
    slot = running()[0]
    plan = plan_of(make_snapshot(slots=(slot,), report=make_report(replicas={str(slot.name): dead()})))
    assert list(actions(plan).values()) == ["Remove", "Create"]
    assert plan.routes.models[0].replicas == ()


def test_a_broken_replica_holds_its_place_until_it_is_gone() -> None:
    tight = make_node(memory_bytes=1100 * MIB)
    failed = running(phase=SlotPhase.FAILED, message="boom")
    plan = plan_of(make_snapshot(slots=failed, nodes=(tight,)))
    assert list(actions(plan).values()) == ["Remove"]
    stopping = plan_of(make_snapshot(slots=(replace(failed[0], phase=SlotPhase.STOPPING),), nodes=(tight,)))
    assert actions(stopping) == {}
    assert only(stopping).reasons[-1] == f"1 replica to come once {failed[0].name} is gone"


def test_while_ray_is_away_nothing_changes_and_routes_go_on() -> None:
    slots = (*running(3), make_slot("old", 0), make_slot(model=ModelKey("gone", "x")))
    plan = plan_of(make_snapshot(slots=slots, rays=(Ray(answers=False),)))
    assert set(actions(plan).values()) == {"Keep"}
    assert plan.orphans == ()
    routed = next(route for route in plan.routes.models if route.model == "default/chat")
    assert len(routed.replicas) == 4


def test_replicas_of_a_deleted_model_drain_and_its_requests_are_refused() -> None:
    slot = make_slot(model=ModelKey("gone", "x"))
    plan = plan_of(make_snapshot(models=(), slots=(slot,), report=make_report()))
    assert [each.action for each in plan.leaving] == [SlotAction.DRAIN]
    route = plan.routes.models[0]
    assert (route.availability, route.message) == (Availability.REFUSED, "the model gone/x was deleted")
    assert [each.state for each in route.replicas] == [ReplicaState.DRAINING]
    done = make_report(replicas={str(slot.name): draining()})
    plan = plan_of(make_snapshot(models=(), slots=(slot,), report=done))
    assert (plan.orphans, plan.leaving, plan.routes.models) == ((slot.name,), (), ())


def test_an_unreadable_replica_is_replaced_and_serves_until_then() -> None:
    foreign = make_slot("ffffffff", readable=False)
    plan = plan_of(make_snapshot(slots=(foreign,)))
    assert actions(plan)["ffffffff.0"] == "Keep"
    assert "Create" in actions(plan).values()


def test_a_replica_whose_arguments_were_changed_behind_our_back_is_replaced() -> None:
    slot = running()[0]
    assert slot.spec is not None
    tampered = replace(slot, spec=replace(slot.spec, concurrency=1))
    assert list(actions(plan_of(make_snapshot(slots=(tampered,)))).values()) == ["Keep", "Create"]


def test_what_runs_goes_on_while_the_model_is_read_anew() -> None:
    slots = running(2)
    plan = plan_of(make_snapshot(models=(make_model(reading=True, scaling={"maxReplicas": 2}),), slots=slots))
    assert set(actions(plan).values()) == {"Keep"}
    assert only(plan).spec is None


def test_what_runs_is_healed_and_scaled_though_its_spec_can_no_longer_be_planned() -> None:
    slots = running()
    impossible = make_model(parallelism={"tensor": 3}, scaling={"maxReplicas": 3})
    plan = plan_of(make_snapshot(models=(impossible,), slots=slots, report=make_report(load=19)))
    assert list(actions(plan).values()) == ["Keep", "Create", "Create"]
    failed = (replace(slots[0], phase=SlotPhase.FAILED),)
    assert list(actions(plan_of(make_snapshot(models=(impossible,), slots=failed))).values()) == [
        "Remove",
        "Create",
    ]


def test_what_could_not_be_started_again_is_not_scaled_to_zero() -> None:
    impossible = make_model(
        parallelism={"tensor": 3},
        scaling={"minReplicas": 0},
        window=make_window(),
        status={"desiredReplicas": 1},
    )
    plan = plan_of(make_snapshot(models=(impossible,), slots=running(), report=make_report()))
    assert list(actions(plan).values()) == ["Keep"]


def test_a_model_that_collides_is_not_started_and_its_requests_are_refused() -> None:
    older, younger = (
        make_model("a", served_name="x", first_seen=1),
        make_model("b", served_name="x", first_seen=2),
    )
    plan = plan_of(make_snapshot(models=(younger, older)))
    assert [len(model.slots) for model in plan.models] == [1, 0]
    routes = {route.model: route for route in plan.routes.models}
    assert routes["default/b"].availability is Availability.REFUSED
    assert routes["default/b"].names == ("default/b",)


def test_a_model_that_cannot_be_read_is_refused_with_the_reason() -> None:
    missing = ArtifactRefusal(reason="ModelNotFound", message="nothing at hf://a/b")
    route = plan_of(make_snapshot(models=(make_model(artifact=missing),))).routes.models[0]
    assert (route.availability, route.message) == (Availability.REFUSED, "nothing at hf://a/b")


def test_a_model_without_any_node_is_waited_for() -> None:
    plan = plan_of(make_snapshot(nodes=()))
    assert plan.routes.models[0].availability is Availability.AVAILABLE
    assert only(plan).reasons == ("pool default has no nodes at present",)


def test_after_three_failed_starts_requests_are_refused_unless_the_model_sleeps() -> None:
    revision = only(plan_of(make_snapshot())).revision
    failure = FailureRecord(revision=revision, count=3, last_at=990.0, message="out of memory")
    plan = plan_of(make_snapshot(models=(make_model(failure=failure),)))
    assert plan.routes.models[0].message == "the model does not start: out of memory"
    assert plan.routes.models[0].availability is Availability.REFUSED
    assert (only(plan).retry_at, plan.wake_at) == (1010.0, 1010.0)
    asleep = make_model(failure=failure, scaling={"minReplicas": 0}, answered_revision=revision)
    assert plan_of(make_snapshot(models=(asleep,))).routes.models[0].availability is Availability.AVAILABLE


def test_those_that_run_already_get_the_room_before_those_that_are_new() -> None:
    runs = make_model("z", first_seen=9, scaling={"minReplicas": 2, "maxReplicas": 2})
    fresh = make_model("a", first_seen=1)
    spec = only(plan_of(make_snapshot(models=(runs,)))).slots[0]
    slot = make_slot(spec.name.revision, model=runs.key, spec=spec.spec, memory_bytes=spec.needs.memory_bytes)
    node = make_node(memory_bytes=2100 * MIB)
    plan = plan_of(make_snapshot(models=(fresh, runs), slots=(slot,), nodes=(node,)))
    assert [len(model.slots) for model in plan.models] == [0, 2]
    assert "held by default/z (1.8 GiB)" in plan.models[0].reasons[-1]


def test_the_pool_asked_for_is_used_and_a_missing_one_is_named() -> None:
    pools = (make_pool("a"), make_pool("b"))
    asked = plan_of(make_snapshot(models=(make_model(pool="b"),), pools=pools))
    assert only(asked).pool == "b"
    missing = plan_of(make_snapshot(models=(make_model(pool="c"),), pools=pools))
    assert only(missing).reasons == ("spec.pool: there is no GPUPool c; there is a, b",)


def test_the_pool_that_a_model_runs_on_is_kept() -> None:
    pools = (make_pool("a", nodeSelector={"p": "a"}), make_pool("b", nodeSelector={"p": "b"}))
    nodes = (make_node("n-a", labels={"p": "a"}), make_node("n-b", labels={"p": "b"}))
    assert only(plan_of(make_snapshot(pools=pools, nodes=nodes))).pool == "a"
    slots = tuple(replace(slot, place=(SlotPlace("n-b"),), running_on="n-b") for slot in running())
    plan = plan_of(make_snapshot(pools=pools, nodes=nodes, slots=slots))
    assert (only(plan).pool, actions(plan)[f"{slots[0].name.revision}.0"]) == ("b", "Keep")


def test_a_shorter_model_shortens_the_default_context_but_not_one_asked_for() -> None:
    short = make_qwen_artifact()
    short = replace(short, config={**short.config, "max_position_embeddings": 512}, weights_bytes=GIB)
    node = make_node(accelerators=1)
    plan = plan_of(make_snapshot(models=(make_model(source="hf://a/b", artifact=short),), nodes=(node,)))
    spec = only(plan).spec
    assert spec is not None
    assert spec.context_tokens == 512
    asked = make_model(source="hf://a/b", artifact=short, objectives={"contextTokens": 1024})
    refusal = only(plan_of(make_snapshot(models=(asked,), nodes=(node,)))).reasons[0]
    assert refusal == "spec.objectives.contextTokens: 1024 exceeds the model's 512; 512 would do"


def test_a_change_of_scale_is_no_new_revision() -> None:
    revisions = {
        only(plan_of(make_snapshot(models=(make_model(scaling={"maxReplicas": most}),)))).revision
        for most in (1, 2, 50)
    }
    assert len(revisions) == 1


def test_gguf_under_vllm_is_planned_with_its_dequantised_weights() -> None:
    plan = plan_of(make_snapshot(models=(make_model(engine={"type": "VLLM"}),)))
    # With a head of its own, for metadata alone does not say that the embedding stands for it.
    assert "weights 310.6 MiB" in " ".join(only(plan).reasons)


def test_pools_tell_what_they_have_and_what_is_promised() -> None:
    slot = make_slot(node_id="g", accelerators=2)
    plan = plan_of(make_snapshot(models=(), nodes=(make_node("g", accelerators=8),), slots=(slot,)))
    pool = plan.pools[0]
    assert (pool.accelerator, pool.nodes, pool.accelerators, pool.accelerators_used) == ("H200", 1, 8, 2)
    assert pool.memory_used_bytes * 4 == pool.memory_bytes


def test_the_plan_wakes_when_the_quiet_time_ends() -> None:
    window = make_window((990.0, 20), (995.0, 0))
    model = make_model(scaling={"maxReplicas": 3}, window=window, status={"desiredReplicas": 3})
    plan = plan_of(make_snapshot(models=(model,), slots=running(3), report=make_report()))
    assert plan.wake_at == 1050.0


def test_the_plan_wakes_at_the_progress_deadline_and_at_the_drain_timeout() -> None:
    loading = running(phase=SlotPhase.LOADING, since=900.0)
    assert plan_of(make_snapshot(slots=loading)).wake_at == 900.0 + 1800
    slots = running(2)
    leaving = replace(slots[1], draining_since=800.0)
    assert plan_of(make_snapshot(slots=(slots[0], leaving))).wake_at == 800.0 + 3600


def test_load_of_other_models_is_not_this_models_load() -> None:
    report = LoadReport(
        gateway="g", table_version=1, models={"default/other": ModelLoad(in_flight=99, queued=0, peak=99)}
    )
    plan = plan_of(make_snapshot(models=(make_model(scaling={"maxReplicas": 5}),), report=report))
    assert only(plan).desired_replicas == 1


def test_a_plan_reads_as_prose() -> None:
    qwen = make_model(
        "qwen32b",
        "team-a",
        artifact=make_qwen_artifact(),
        source="hf://Qwen/Qwen2.5-32B-Instruct",
        objectives={"concurrency": 40, "contextTokens": 8192},
        pool="h200",
    )
    nodes = (make_node("a", accelerators=8), make_node("b", accelerators=8))
    gone = make_slot(model=ModelKey("gone", "x"), node_id="b", accelerators=1)
    plan = plan_of(make_snapshot(models=(qwen,), nodes=nodes, pools=(make_pool("h200"),), slots=(gone,)))
    revision = only(plan).revision
    lines = describe(plan).splitlines()
    shape, speed = lines.pop(2), lines.pop(2)
    assert shape.startswith(
        "  TP2 (the fewest accelerators that hold the load and meet the goals): weights 29.7 GiB an accelerator, KV 9"
    )
    assert speed.startswith("  at 40 users, 512 tokens in and 256 out: TTFT p50 ")
    assert lines == [
        f"team-a/qwen32b on pool h200 (2 nodes, H200): 1 replica x TP2 = 2 accelerators, revision {revision}",
        "  VLLM: the engine for Safetensors on H200",
        "  not TP1: its KV cache holds 32 requests of 8192 tokens, 40 asked",
        "  not TP4: 2 accelerators more for the same goals",
        "  1 replica: the load asks for no more than minReplicas",
        f"  create  team-a.qwen32b.{revision}.0 on b: one more of 1 wanted replica, on b.local",
        "",
        "of deleted models",
        "  drain   gone.x.aaaaaaaa.0: gone/x was deleted; waiting for the gateway to stop sending to it",
    ]


def test_an_empty_plan_reads_as_prose_too() -> None:
    assert describe(plan_of(make_snapshot(models=()))) == "nothing is asked for, nothing runs"
    refused = describe(plan_of(make_snapshot(models=(make_model(pool="c"),))))
    assert refused.startswith("default/chat: no new replica can be made\n  spec.pool: there is no GPUPool c")


def test_what_runs_of_a_model_that_nobody_can_read_is_left_alone() -> None:
    key = ModelKey("default", "torn")
    slots = (make_slot(model=key),)
    plan = plan_of(replace(make_snapshot(models=(), slots=slots), unreadable=frozenset([key])))
    assert [(slot.name, slot.action) for slot in plan.leaving] == [(slots[0].name, SlotAction.KEEP)]
    assert plan.orphans == ()
    assert plan.unknown_routes == {"default/torn"}
