"""What Flux, Argo CD and kpt make of Plinth's statuses: judged by the library that they judge by, in Go."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fleet
import pytest
import yaml
from kube import installation
from kube.access import Kubernetes
from kube.binaries import find_go
from kube.fixtures import skip_without_requirements

from plinth.api.v1alpha1 import GPUPool, ModelDeployment
from plinth.desired.statuses import look, model_status, pool_status
from plinth.domain.fleet import ArtifactRefusal, FailureRecord, FleetSnapshot, Ray, Slot, SlotPhase
from plinth.domain.planner import compute_plan
from plinth.tests.domain.builders import (
    make_model,
    make_pool,
    make_report,
    make_slot,
    make_snapshot,
    make_window,
)

pytestmark = pytest.mark.kube

MODULE = Path(__file__).parents[1] / "kstatus"
TEST_SECONDS = 200
NOW = 1_000_000_000.0
FRESH = compute_plan(make_snapshot(), 0.0).models[0]


def judge(folder: Path, expected: str, objects: Mapping[str, dict[str, Any]]) -> None:
    """Fail unless the library gives every object the expected status."""
    for name, each in objects.items():
        (folder / f"{name}.{expected}.yaml").write_text(yaml.safe_dump(each))
    with skip_without_requirements():
        go = find_go()
    done = subprocess.run(
        [go, "test", "-count=1", "./..."],
        cwd=MODULE,
        env={**os.environ, "KSTATUS_OBJECTS": str(folder)},
        capture_output=True,
        text=True,
        timeout=TEST_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def with_status(resource: ModelDeployment | GPUPool, status: Any) -> dict[str, Any]:
    """The object as the API server holds it once the status is written."""
    written = resource.model_copy(update={"status": status})
    return {
        **written.model_dump(mode="json", by_alias=True, exclude_none=True),
        "metadata": {"name": resource.metadata.name, "generation": resource.metadata.generation},
    }


def model_object(snapshot: FleetSnapshot) -> dict[str, Any]:
    plan = compute_plan(snapshot, NOW)
    model, resource = plan.models[0], snapshot.models[0].resource
    return with_status(resource, model_status(model, resource, look(snapshot, plan)[model.key], NOW))


def model_objects(snapshots: Mapping[str, FleetSnapshot]) -> dict[str, dict[str, Any]]:
    return {name: model_object(snapshot) for name, snapshot in snapshots.items()}


def pool_object(**changes: Any) -> dict[str, Any]:
    pool = make_pool()
    plan = compute_plan(make_snapshot(pools=(pool,), **changes), NOW).pools[0]
    return with_status(pool, pool_status(plan, pool, NOW))


def replica(**changes: Any) -> Slot:
    needs = FRESH.slots[0].needs
    return make_slot(FRESH.revision, 0, spec=FRESH.spec, memory_bytes=needs.memory_bytes, **changes)


def one_model(*slots: Slot, **changes: Any) -> FleetSnapshot:
    return make_snapshot(models=(make_model(**changes),), slots=slots, report=make_report())


FAILURE = FailureRecord(revision=FRESH.revision, count=3, last_at=NOW - 1, message="out of memory")
OLD = make_slot("0ld00000")

AS_IT_SHOULD_BE = {
    "serving": one_model(replica()),
    "asleep": one_model(scaling={"minReplicas": 0}, answered_revision=FRESH.revision, window=make_window()),
    "growing-between-its-bounds": make_snapshot(
        models=(make_model(scaling={"minReplicas": 1, "maxReplicas": 3}),),
        slots=(replica(),),
        report=make_report(load=20),
    ),
}
ON_ITS_WAY = {
    "model-being-read": one_model(reading=True),
    "starting": one_model(replica(phase=SlotPhase.LOADING, since=NOW - 1)),
    "rolling-out": one_model(replica(phase=SlotPhase.LOADING, since=NOW - 1), OLD),
    "no-room-yet": one_model(scaling={"minReplicas": 500, "maxReplicas": 500}),
    "pool-without-nodes-yet": make_snapshot(nodes=()),
    "ray-away": make_snapshot(nodes=(), rays=(Ray(answers=False),)),
}
UNTIL_SOMEBODY_ACTS = {
    "edit-refused": one_model(
        replica(), invalid_edit="spec.scaling: minReplicas must not exceed maxReplicas"
    ),
    "source-unknown": one_model(
        artifact=ArtifactRefusal(reason="UnknownSource", message="ftp:// is unknown")
    ),
    "model-missing": one_model(artifact=ArtifactRefusal(reason="ModelNotFound", message="nothing there")),
    "pool-missing": one_model(pool="nowhere"),
    "shape-impossible": one_model(parallelism={"tensor": 2}),
    "engine-failed": one_model(failure=FAILURE),
    "rollout-stuck": one_model(OLD, failure=FAILURE),
}


def test_what_is_as_it_should_be_is_current(tmp_path: Path) -> None:
    judge(tmp_path, "Current", {**model_objects(AS_IT_SHOULD_BE), "pool": pool_object()})


def test_what_is_on_its_way_is_in_progress(tmp_path: Path) -> None:
    pools = {"pool-empty": pool_object(nodes=()), "pool-away": pool_object(rays=(Ray(answers=False),))}
    judge(tmp_path, "InProgress", {**model_objects(ON_ITS_WAY), **pools})


def test_what_stays_so_until_somebody_acts_has_failed(tmp_path: Path) -> None:
    judge(tmp_path, "Failed", model_objects(UNTIL_SOMEBODY_ACTS))


def test_an_edit_that_was_not_looked_at_yet_is_in_progress(tmp_path: Path) -> None:
    edited = model_object(AS_IT_SHOULD_BE["serving"])
    edited["metadata"]["generation"] += 1
    judge(tmp_path, "InProgress", {"edited": edited})


def test_what_was_only_just_applied_is_in_progress(
    tmp_path: Path, control_plane: Kubernetes, kube_namespace: str
) -> None:
    model = fleet.make_model()
    model["metadata"]["namespace"] = kube_namespace
    control_plane.apply(model, installation.make_pool(kube_namespace))
    applied = {
        "model": control_plane.get("modeldeployment", model["metadata"]["name"], kube_namespace),
        "pool": control_plane.get("gpupool", kube_namespace),
    }
    control_plane.kubectl("delete", "gpupool", kube_namespace)
    judge(tmp_path, "InProgress", applied)
