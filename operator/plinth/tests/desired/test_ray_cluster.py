"""A GPUPool as a RayCluster: whole manifests beside golden files, revisions, and the sizes of worker groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from plinth.api.v1alpha1 import GPUPool
from plinth.api.v1alpha1.crdgen import to_yaml
from plinth.desired.ray_cluster import (
    make_ray_cluster,
    make_worker_group,
    ray_cluster_key,
    revision_of,
    says_all_of,
    sized,
)
from plinth.desired.ray_names import ray_cluster_name
from plinth.desired.ray_pods import RaySettings
from plinth.domain.node_types import node_types
from plinth.tests.domain.kube_builders import make_h200_node, make_kube_node, make_kube_pool

GOLDEN = Path(__file__).parent / "golden"
SETTINGS = RaySettings(namespace="plinth-system", image="plinth/engine:1.0", ray_version="2.57.0")
WITH_REDIS = RaySettings(
    namespace="plinth-system",
    image="plinth/engine:1.0",
    ray_version="2.57.0",
    pull_secrets=("registry",),
    redis_address="plinth-redis.plinth-system.svc:6379",
    redis_password_secret="plinth-redis",
)
SMALL = {"name": "small", "max": 3, "cpus": 2, "memory": "4Gi"}


def make_manifest(pool: GPUPool, settings: RaySettings = SETTINGS) -> dict[str, Any]:
    nodes = [make_kube_node("n1"), make_h200_node("g1"), make_h200_node("g2")]
    groups = [make_worker_group(pool, kind, settings) for kind in node_types(pool, nodes)]
    return make_ray_cluster(pool, groups, settings)


@pytest.mark.parametrize(
    ("name", "settings", "spec"),
    [
        ("shared-h200", WITH_REDIS, {}),
        (
            "dedicated-cpu",
            SETTINGS,
            {
                "accelerator": "CPU",
                "namespace": "team-a",
                "nodeTypes": [SMALL],
                "nodeSelector": {"zone": "z1"},
                "volumes": [{"claim": "models"}, {"claim": "scratch.fast", "readOnly": False}],
                "workers": {"max": 5, "runtimeClassName": "gvisor", "tolerations": [{"operator": "Exists"}]},
                "ray": {
                    "version": "2.58.0",
                    "image": "mine:2",
                    "headTemplate": {"spec": {"priorityClassName": "high"}},
                    "workerTemplate": {
                        "metadata": {
                            "labels": {"plinth.dev/engines": "VLLM"},
                            "annotations": {"team": "a"},
                        },
                        "spec": {
                            "containers": [
                                {"name": "ray", "env": [{"name": "HOME", "value": "/cache"}]},
                                {"name": "logs", "image": "logs:1"},
                            ],
                            "volumes": [{"name": "cache", "hostPath": {"path": "/nvme"}}],
                        },
                    },
                },
            },
        ),
    ],
)
def test_the_whole_manifest_is_as_recorded(name: str, settings: RaySettings, spec: dict[str, Any]) -> None:
    """After a change that is meant: remove the file, run the test, read what it wrote."""
    manifest = make_manifest(make_kube_pool(name, **spec), settings)
    golden = GOLDEN / f"{name}.yaml"
    if not golden.exists():
        golden.write_text(to_yaml(manifest))
        pytest.fail(f"{golden.name} was written; read it and run again")
    assert manifest == yaml.safe_load(golden.read_text())


def test_a_revision_does_not_count_workers_nodes_or_bounds() -> None:
    before = revision_of(make_kube_pool(), SETTINGS)
    for spec in (
        {"workers": {"min": 1, "max": 7, "idleSeconds": 1}},
        {"costPerAcceleratorHour": "3.9"},
        {"nodeTypes": [SMALL]},
        {"nodeSelector": {"zone": "z1"}},
        {"memoryUtilizationPercent": 80},
    ):
        assert revision_of(make_kube_pool(**spec), SETTINGS) == before, spec


def test_whatever_needs_new_pods_is_a_new_revision() -> None:
    changed: list[dict[str, Any]] = [
        {},
        {"namespace": "team-a"},
        {"namespace": "team-a", "volumes": [{"claim": "c"}]},
        {"ray": {"version": "2.58.0"}},
        {"ray": {"image": "other"}},
        {"ray": {"headTemplate": {"spec": {"priorityClassName": "x"}}}},
        {"ray": {"workerTemplate": {"metadata": {"labels": {"a": "b"}}}}},
        {"workers": {"runtimeClassName": "nvidia"}},
        {"workers": {"tolerations": [{"key": "a", "operator": "Exists"}]}},
    ]
    revisions = [revision_of(make_kube_pool(**spec), SETTINGS) for spec in changed]
    revisions.append(revision_of(make_kube_pool(), WITH_REDIS))
    assert len(set(revisions)) == len(revisions)


def test_a_dedicated_pool_has_its_ray_in_the_namespace_that_it_serves() -> None:
    pool = make_kube_pool("a", namespace="team-a")
    assert ray_cluster_key(pool, SETTINGS)[0] == "team-a"
    assert ray_cluster_key(make_kube_pool("a"), SETTINGS)[0] == "plinth-system"


@pytest.mark.parametrize("pool", ["a", "a" * 41, "a" * 42, "x" * 63, "8h200", f"{'y' * 30}-{'z' * 30}"])
def test_a_ray_clusters_name_is_one_that_kuberay_takes_and_never_cuts(pool: str) -> None:
    name = ray_cluster_name(pool, "0123abcd")
    assert len(name) <= 50
    assert name[0].isalpha()
    assert name.endswith("-0123abcd")


def test_names_that_are_cut_stay_different() -> None:
    assert ray_cluster_name("x" * 63, "r") != ray_cluster_name("x" * 62, "r")
    assert ray_cluster_name("8a", "r") != ray_cluster_name("9a", "r")


def test_a_worker_takes_its_accelerators_and_never_restarts_in_place() -> None:
    manifest = make_manifest(make_kube_pool())
    (group,) = manifest["spec"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    (ray,) = pod["containers"]
    assert ray["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert "cpu" not in ray["resources"]["limits"]
    assert ray["resources"]["requests"]["memory"] == ray["resources"]["limits"]["memory"]
    assert pod["restartPolicy"] == "Never"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert group["rayStartParams"]["num-gpus"] == "8"


def test_the_head_computes_nothing_and_never_asks_for_accelerators() -> None:
    head = make_manifest(make_kube_pool())["spec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    ray, inspector = head["template"]["spec"]["containers"]
    assert (ray["name"], inspector["name"]) == ("ray", "inspector")
    assert "nvidia.com/gpu" not in ray["resources"]["limits"]


def test_no_container_may_write_to_its_image_or_ask_the_api_server() -> None:
    spec = make_manifest(make_kube_pool())["spec"]
    pods = [spec["headGroupSpec"]["template"]["spec"], spec["workerGroupSpecs"][0]["template"]["spec"]]
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def resize(
    workers: int, remove: str = "", living: str = "", leaving: str = "", named: str = ""
) -> tuple[int, str]:
    group = {"groupName": "g", "scaleStrategy": {"workersToDelete": list(named)}}
    found = sized(group, workers=workers, remove=remove, living=living, leaving=leaving)
    return found["replicas"], "".join(found["scaleStrategy"]["workersToDelete"])


def test_a_worker_that_goes_is_named_in_the_same_update() -> None:
    assert resize(1, remove="b", living="ab") == (1, "b")


def test_a_group_grows_without_naming_anyone() -> None:
    assert resize(3, living="a") == (3, "")


def test_growing_and_letting_one_go_at_once() -> None:
    assert resize(2, remove="a", living="ab") == (2, "a")


def test_a_worker_that_nobody_named_is_never_left_to_chance() -> None:
    assert resize(1, living="ab") == (2, "")
    assert resize(0, remove="a", living="abc") == (2, "a")


def test_a_name_stays_until_the_pod_is_gone() -> None:
    assert resize(1, living="a", leaving="b", named="b") == (1, "b")
    assert resize(1, living="ab", named="b") == (2, "b")
    assert resize(1, living="a", named="b") == (1, "")


def test_a_pod_that_is_gone_already_is_not_named() -> None:
    assert resize(1, remove="b", living="a") == (1, "")


@given(st.integers(0, 6), st.frozensets(st.sampled_from("abcdef")), st.frozensets(st.sampled_from("abcdef")))
def test_kuberay_never_has_to_choose(workers: int, living: frozenset[str], remove: frozenset[str]) -> None:
    """KubeRay first deletes those named, then compares what is left with the number."""
    replicas, named = resize(workers, remove="".join(remove), living="".join(living))
    left = living - set(named)
    assert len(left) <= replicas
    assert set(named) <= remove


def test_what_the_api_server_fills_in_is_no_difference() -> None:
    wanted = {"a": 1, "list": [{"x": 1, "gone": []}], "empty": {}, "off": False}
    assert says_all_of(wanted, {"a": 1, "list": [{"x": 1, "default": 2}], "more": 3})
    assert not says_all_of(wanted, {"a": 2, "list": [{"x": 1}]})
    assert not says_all_of(wanted, {"a": 1, "list": [{"x": 1}, {"x": 2}]})
    assert not says_all_of({"a": {"b": 1}}, None)


def test_names_that_no_longer_go_are_a_difference() -> None:
    assert not says_all_of({"workersToDelete": []}, {"workersToDelete": ["a"]})
