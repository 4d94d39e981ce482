from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from plinth.api.v1alpha1 import GPUPool, GPUPoolSpec, ObjectMeta
from plinth.api.v1alpha1.workers import TrustRemoteCode
from plinth.desired.pod_settings import make_pod_settings
from plinth.desired.serve_config import (
    DeployedSlot,
    ServeSettings,
    deployed_configs,
    parse_slot,
    same_config,
    serve_config,
)
from plinth.desired.serve_details import read_slots
from plinth.domain.fleet import FleetPlan, ModelKey, Needs, Node, Slot, SlotName, SlotPhase
from plinth.domain.planner import compute_plan
from plinth.engine.slot import ReplicaArgs, RuntimePaths
from plinth.tests.domain.builders import (
    draining,
    make_model,
    make_node,
    make_qwen_artifact,
    make_report,
    make_slot,
    make_snapshot,
)

SETTINGS = ServeSettings(
    secret_file="/state/secret",
    secrets_dir="/folder/secrets",
    cache_dir="/cache",
    http_host="127.0.0.1",
    http_port=8000,
)


def cpu_plan(*slots: Slot, replicas: int = 1) -> FleetPlan:
    model = make_model(scaling={"minReplicas": replicas, "maxReplicas": replicas})
    return compute_plan(make_snapshot(models=(model,), slots=slots), 0.0)


def gpu_plan(node: Node | None = None) -> FleetPlan:
    qwen = make_model(artifact=make_qwen_artifact(), source="hf://a/b", parallelism={"tensor": 2})
    return compute_plan(
        make_snapshot(models=(qwen,), nodes=(node or make_node("gpu-1", accelerators=8),)), 0.0
    )


def only_application(plan: FleetPlan) -> dict[str, Any]:
    applications = serve_config(plan, SETTINGS)["applications"]
    assert len(applications) == 1
    return dict(applications[0])


def answered(config: dict[str, Any]) -> dict[str, Any]:
    """What Ray answers to GET after this PUT: by way of JSON, and numbers as floats, as its schema has them."""
    found = json.loads(json.dumps(config["applications"]))
    for application in found:
        for deployment in application.get("deployments", []):
            for bundle in deployment["placement_group_bundles"]:
                bundle.update({key: float(value) for key, value in bundle.items()})
    applications = {each["name"]: {"status": "RUNNING", "deployed_app_config": each} for each in found}
    return {"applications": applications}


def test_each_slot_is_an_application_of_one_replica_with_its_own_route() -> None:
    plan = cpu_plan(replicas=2)
    applications = serve_config(plan, SETTINGS)["applications"]
    names = [str(slot.name) for slot in plan.models[0].slots]
    assert [each["name"] for each in applications] == names
    assert [each["route_prefix"] for each in applications] == [f"/{name}" for name in names]
    assert {each["deployments"][0]["num_replicas"] for each in applications} == {1}
    assert {each["import_path"] for each in applications} == {"plinth.engine.app:build"}


def test_whom_a_replica_replaces_is_kept_at_ray_and_read_back() -> None:
    plan = cpu_plan()
    (slot,) = plan.models[0].slots
    old = slot.name._replace(ordinal=7)
    told = replace(plan, models=(replace(plan.models[0], slots=(replace(slot, replaces=old),)),))
    (found,) = read_slots(answered(serve_config(told, SETTINGS)))
    assert found.slot.replaces == old
    (found,) = read_slots(answered(serve_config(plan, SETTINGS)))
    assert found.slot.replaces is None
    msgspec.convert(only_application(told)["args"], ReplicaArgs)


def test_serve_listens_where_it_is_told_on_the_head_only() -> None:
    config = serve_config(cpu_plan(), SETTINGS)
    assert config["proxy_location"] == "HeadOnly"
    assert config["http_options"] == {"host": "127.0.0.1", "port": 8000, "keep_alive_timeout_s": 86_400}


def test_the_replica_is_told_its_spec_its_name_and_the_paths_of_secrets_only() -> None:
    plan = cpu_plan()
    slot = plan.models[0].slots[0]
    assert only_application(plan)["args"] == {
        "spec": json.loads(msgspec.json.encode(slot.spec)),
        "slot": str(slot.name),
        "runtime": {"secret_file": "/state/secret", "secrets_dir": "/folder/secrets", "cache_dir": "/cache"},
    }


def test_in_a_pod_it_is_told_how_far_a_model_may_reach() -> None:
    shared = make_pod_settings(GPUPool(metadata=ObjectMeta(name="cpu")))
    told = serve_config(cpu_plan(), shared)["applications"][0]["args"]["runtime"]
    assert told == {
        "secret_file": "/etc/plinth/engine/secret",
        "cache_dir": "/var/cache/plinth",
        "shared_models": "/models",
    }
    spec = GPUPoolSpec(namespace="team", trust_remote_code=TrustRemoteCode.ALLOWED)
    dedicated = make_pod_settings(GPUPool(metadata=ObjectMeta(name="cpu"), spec=spec))
    told = serve_config(cpu_plan(), dedicated)["applications"][0]["args"]["runtime"]
    assert (told["volumes"], told["trust_remote_code"]) == ("/plinth/volumes", True)


def test_what_is_told_is_what_a_replica_reads() -> None:
    every = replace(SETTINGS, shared_models="/m", volumes="/v", trust_remote_code=True)
    args = serve_config(cpu_plan(), every)["applications"][0]["args"]
    assert args["runtime"].keys() == set(RuntimePaths.__struct_fields__)
    assert msgspec.convert(args, ReplicaArgs).runtime == RuntimePaths(**args["runtime"])


def test_a_running_replica_keeps_what_it_was_told_when_the_settings_change() -> None:
    plan = cpu_plan()
    before = serve_config(plan, SETTINGS)
    found = deployed_configs(answered(before))
    after = serve_config(plan, replace(SETTINGS, trust_remote_code=True), deployed=found)
    assert same_config(after, answered(before)), "to say it anew would replace the replica"


def test_a_cpu_replica_asks_for_memory_on_its_node_and_for_no_cpu() -> None:
    deployment = only_application(cpu_plan())["deployments"][0]
    assert deployment["placement_group_bundles"] == [{"memory": 939524096}]
    assert deployment["ray_actor_options"] == {"num_cpus": 0, "memory": 939524096}
    assert deployment["placement_group_bundle_label_selector"] == [{"ray.io/node-id": "node-1"}]


def test_a_replica_on_accelerators_asks_for_whole_ones_and_no_memory() -> None:
    deployment = only_application(gpu_plan())["deployments"][0]
    assert deployment["placement_group_bundles"] == [{"GPU": 2}]
    assert deployment["ray_actor_options"] == {"num_cpus": 0, "num_gpus": 2}
    assert deployment["placement_group_bundle_label_selector"] == [{"ray.io/node-id": "gpu-1"}]


def test_only_slots_that_come_stay_or_drain_are_asked_for() -> None:
    spec = cpu_plan().models[0]
    memory = spec.slots[0].needs.memory_bytes
    slots = tuple(make_slot(spec.revision, n, spec=spec.spec, memory_bytes=memory) for n in range(2))
    failed = make_slot(spec.revision, 2, spec=spec.spec, phase=SlotPhase.FAILED, memory_bytes=memory)
    report = make_report(replicas={str(slots[1].name): draining(1)})
    gone = make_slot(model=ModelKey("gone", "x"))
    plan = compute_plan(make_snapshot(slots=(*slots, failed, gone), report=report), 0.0)
    names = [each["name"] for each in serve_config(plan, SETTINGS)["applications"]]
    assert names == [str(slots[0].name), str(slots[1].name), str(gone.name)]


def test_a_config_reads_back_as_the_slots_it_was_made_of() -> None:
    for plan in (cpu_plan(), gpu_plan()):
        slot = plan.models[0].slots[0]
        told = DeployedSlot(name=slot.name, spec=slot.spec, needs=slot.needs, place=slot.place)
        assert parse_slot(only_application(plan)) == told


@pytest.mark.parametrize(
    "application",
    [
        {"name": "a.b.c.0"},
        {"name": "a.b.c.0", "import_path": "plinth.engine.app:build", "args": {"spec": {"engine": "Other"}}},
        {"name": "a.b.c.0", "import_path": "evil:app", "args": {"spec": {}}, "deployments": []},
        {"name": "a.b.c.0", "args": None, "deployments": [{"name": "replica"}]},
    ],
)
def test_what_cannot_be_read_is_told_apart_from_what_is_not_ours(application: dict[str, Any]) -> None:
    name = SlotName(ModelKey("a", "b"), "c", 0)
    nothing = Needs(accelerators=0, memory_bytes=0)
    assert parse_slot(application) == DeployedSlot(name=name, spec=None, needs=nothing, place=())


def test_an_application_with_another_name_is_no_slot() -> None:
    assert parse_slot({"name": "someone-elses"}).name is None


def test_nothing_is_put_when_ray_has_it_already() -> None:
    config = serve_config(cpu_plan(replicas=2), SETTINGS)
    assert same_config(config, answered(config))


def test_nothing_is_put_to_a_ray_without_serve_when_nothing_is_wanted() -> None:
    empty = serve_config(compute_plan(make_snapshot(models=()), 0.0), SETTINGS)
    assert same_config(empty, {})
    assert same_config(empty, {"applications": {}})


def _delete(serve: dict[str, Any]) -> None:
    serve["applications"].popitem()


def _add(serve: dict[str, Any]) -> None:
    serve["applications"]["x"] = {
        "status": "RUNNING",
        "deployed_app_config": {"name": "x", "import_path": "a:b"},
    }


def _scale(serve: dict[str, Any]) -> None:
    next(iter(serve["applications"].values()))["deployed_app_config"]["deployments"][0]["num_replicas"] = 2


def _extend(serve: dict[str, Any]) -> None:
    next(iter(serve["applications"].values()))["deployed_app_config"]["runtime_env"] = {
        "env_vars": {"A": "1"}
    }


def _stop(serve: dict[str, Any]) -> None:
    next(iter(serve["applications"].values()))["status"] = "DELETING"


@pytest.mark.parametrize("meddle", [_delete, _add, _scale, _extend, _stop])
def test_whatever_somebody_changed_at_ray_is_put_right(meddle: Callable[[dict[str, Any]], None]) -> None:
    config = serve_config(cpu_plan(replicas=2), SETTINGS)
    serve = answered(config)
    meddle(serve)
    assert not same_config(config, serve)


def test_what_ray_fills_in_by_itself_is_no_difference() -> None:
    config = serve_config(cpu_plan(), SETTINGS)
    serve = answered(config)
    for application in serve["applications"].values():
        application["deployed_app_config"] |= {
            "runtime_env": {},
            "external_scaler_enabled": False,
            "docs": None,
        }
    assert same_config(config, serve)


def test_an_application_on_its_way_out_is_not_held_against_us() -> None:
    config = serve_config(cpu_plan(), SETTINGS)
    serve = answered(config)
    serve["applications"]["old"] = {"status": "DELETING", "deployed_app_config": {"name": "old"}}
    serve["applications"]["imperative"] = {"status": "RUNNING", "deployed_app_config": None}
    assert same_config(config, serve)


def test_applications_of_others_are_said_again_as_they_are() -> None:
    foreign = {"name": "another", "import_path": "a:b"}
    config = serve_config(cpu_plan(), SETTINGS, foreign=[foreign])
    assert config["applications"][0] == foreign


def test_a_slot_that_another_version_worded_is_said_again_in_its_words() -> None:
    fresh = cpu_plan().models[0]
    assert fresh.spec is not None
    slot = make_slot(fresh.revision, 0, spec=fresh.spec, memory_bytes=fresh.slots[0].needs.memory_bytes)
    plan = cpu_plan(slot)
    serve = answered(serve_config(plan, SETTINGS))
    config = serve["applications"][str(slot.name)]["deployed_app_config"]
    del config["args"]["spec"]["kv_bytes"]
    config["args"]["runtime"] = {"cache_dir": "/elsewhere"}
    assert not same_config(serve_config(plan, SETTINGS), serve)
    assert same_config(serve_config(plan, SETTINGS, deployed=deployed_configs(serve)), serve)


def test_an_unreadable_slot_is_said_again_or_left_out_but_never_made_up() -> None:
    foreign = make_slot("ffffffff", readable=False)
    plan = cpu_plan(foreign)
    assert any(slot.name == foreign.name for slot in plan.models[0].slots)
    names = [each["name"] for each in serve_config(plan, SETTINGS)["applications"]]
    assert str(foreign.name) not in names
    deployed = {str(foreign.name): {"name": str(foreign.name), "args": {}}}
    kept = serve_config(plan, SETTINGS, deployed=deployed)["applications"]
    assert {"name": str(foreign.name), "args": {}} in kept


def test_the_config_is_the_same_however_the_plan_was_put_together() -> None:
    models = tuple(make_model(name) for name in ("b", "a", "c"))
    plan = compute_plan(make_snapshot(models=models), 0.0)
    turned = replace(plan, models=tuple(reversed(plan.models)))
    assert serve_config(plan, SETTINGS) == serve_config(turned, SETTINGS)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_rays_own_schema_accepts_the_config_and_gives_it_back() -> None:
    schema = pytest.importorskip("ray.serve.schema")
    for plan in (cpu_plan(replicas=2), gpu_plan()):
        config = serve_config(plan, SETTINGS)
        parsed = schema.ServeDeploySchema.model_validate(config)
        applications = {
            each.name: {"status": "RUNNING", "deployed_app_config": each.model_dump(exclude_unset=True)}
            for each in parsed.applications
        }
        assert same_config(config, {"applications": applications})


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_rays_own_rules_accept_the_bundles() -> None:
    groups = pytest.importorskip("ray.util.placement_group")
    for plan in (cpu_plan(), gpu_plan()):
        deployment = only_application(plan)["deployments"][0]
        bundles = deployment["placement_group_bundles"]
        groups.validate_placement_group(
            bundles,
            strategy="PACK",
            bundle_label_selector=deployment["placement_group_bundle_label_selector"],
        )
        actor = deployment["ray_actor_options"]
        assert actor.get("num_gpus", 0) <= bundles[0].get("GPU", 0)
        assert actor.get("memory", 0) <= bundles[0].get("memory", 0)
