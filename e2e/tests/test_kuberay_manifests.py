"""RayClusters on a real API server with KubeRay's own CRDs: all of it is known there, and written once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube.access import Kubernetes
from kube.kuberay import install_ray_crds
from kuberay_pools import apply_pool, capacity_of, make_host_pool, make_ray_settings, plan_for, unique

from plinth.api.v1alpha1 import GPUPool
from plinth.cluster.kube.kuberay import KubeRayCapacity
from plinth.domain.fleet import WorkerGroupPlan

pytestmark = pytest.mark.kube

GOLDEN = Path(__file__).parents[2] / "operator/plinth/tests/desired/golden"


@pytest.fixture(scope="session")
def ray_kinds(control_plane: Kubernetes) -> None:
    install_ray_crds(control_plane)


@pytest.fixture
def pools() -> list[GPUPool]:
    return []


@pytest.fixture
async def capacity(
    control_plane: Kubernetes,
    kube_namespace: str,
    ray_kinds: None,  # noqa: ARG001 - must be there before RayClusters are watched
    pools: list[GPUPool],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[KubeRayCapacity]:
    settings = make_ray_settings(kube_namespace)
    async with capacity_of(control_plane.kubeconfig, settings, lambda: pools, monkeypatch) as made:
        yield made


@pytest.mark.usefixtures("ray_kinds")
@pytest.mark.parametrize("name", ["shared-h200", "dedicated-cpu"])
def test_every_field_of_a_ray_cluster_is_one_that_kuberay_has(
    control_plane: Kubernetes, kube_namespace: str, name: str
) -> None:
    body = yaml.safe_load((GOLDEN / f"{name}.yaml").read_text())
    del body["metadata"]["ownerReferences"]  # its pool is not here
    body["metadata"]["namespace"] = kube_namespace
    dry_run(control_plane, {"apiVersion": "ray.io/v1", "kind": "RayCluster", **body})


@pytest.mark.parametrize("name", ["shared-h200", "dedicated-cpu"])
def test_every_pod_template_is_one_that_kubernetes_takes(
    control_plane: Kubernetes, kube_namespace: str, name: str
) -> None:
    spec = yaml.safe_load((GOLDEN / f"{name}.yaml").read_text())["spec"]
    head, worker = spec["headGroupSpec"]["template"], spec["workerGroupSpecs"][0]["template"]
    worker["spec"].pop("runtimeClassName", None)  # no such class here
    account = {"serviceAccountName": "default"}
    control_plane.apply(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": kube_namespace},
        }
    )
    for number, template in enumerate((head, worker)):
        template["spec"].pop("priorityClassName", None)
        metadata = {**template["metadata"], "name": f"pod-{number}", "namespace": kube_namespace}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {**template["spec"], **account},
        }
        dry_run(control_plane, pod)


def dry_run(cluster: Kubernetes, body: dict[str, Any]) -> None:
    """The API server checks all of it, unknown fields included, and keeps nothing."""
    flags = ("--dry-run=server", "--validate=strict")
    cluster.kubectl("create", *flags, "-f", "-", stdin=yaml.safe_dump(body))


async def test_a_pool_becomes_a_ray_cluster_that_is_owned_by_it_and_is_not_written_twice(
    control_plane: Kubernetes, kube_namespace: str, capacity: KubeRayCapacity, pools: list[GPUPool]
) -> None:
    pool = apply_pool(control_plane, make_host_pool(unique("pool")))
    pools.append(pool)
    potential = (await capacity.observe()).potential
    assert len(potential) == 2
    wanted = plan_for(
        pool.metadata.name, WorkerGroupPlan(ray=potential[0].ray, group=potential[0].group, workers=2)
    )
    assert await capacity.resize([wanted], pools)
    (cluster,) = control_plane.list("rayclusters", "-n", kube_namespace)
    assert cluster["metadata"]["ownerReferences"][0]["uid"] == pool.metadata.model_extra["uid"]  # type: ignore[index]
    assert [group["replicas"] for group in cluster["spec"]["workerGroupSpecs"]] == [2]

    version = cluster["metadata"]["resourceVersion"]
    for _ in range(2):
        assert not await capacity.resize([wanted], pools)
    (cluster,) = control_plane.list("rayclusters", "-n", kube_namespace)
    assert cluster["metadata"]["resourceVersion"] == version


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        ({"containers": [{"name": "ray", "env": "HOME"}]}, "containers[0].env: Invalid value"),
        ({"priorityClasName": "high"}, 'unknown field "spec.headGroupSpec.template.spec.priorityClasName"'),
    ],
)
async def test_what_kubernetes_would_not_have_is_the_pools_trouble_in_its_own_words(
    control_plane: Kubernetes,
    capacity: KubeRayCapacity,
    pools: list[GPUPool],
    pod: dict[str, Any],
    words: str,
) -> None:
    name = unique("wrong")
    pools.append(apply_pool(control_plane, make_host_pool(name, ray={"headTemplate": {"spec": pod}})))
    await capacity.observe()
    assert not await capacity.resize([plan_for(name)], pools)
    trouble = (await capacity.observe()).troubles[name]
    assert trouble.startswith("its RayCluster was refused: ")
    assert words in trouble
