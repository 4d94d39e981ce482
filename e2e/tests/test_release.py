"""`plinth release` on a real API server: the operator is stopped, and nothing is left that cannot be deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from click.testing import CliRunner
from kube.access import KubectlError, Kubernetes

from plinth.cluster.kube.client import KubeClient
from plinth.runtime.release import OPERATOR, release, stop_operator

pytestmark = pytest.mark.kube

LABELS = {"app.kubernetes.io/name": "plinth", "app.kubernetes.io/component": "operator"}
POD_SPEC = {"containers": [{"name": "operator", "image": "plinth"}]}


@pytest.fixture(autouse=True)
def speak_to_the_cluster(control_plane: Kubernetes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))


@pytest_asyncio.fixture
async def client(speak_to_the_cluster: None) -> AsyncIterator[KubeClient]:  # noqa: ARG001 - first that, then this
    connected = await KubeClient.connect()
    yield connected
    await connected.close()


def make_pool(name: str, *finalizers: str) -> dict[str, Any]:
    return {
        "apiVersion": "plinth.dev/v1alpha1",
        "kind": "GPUPool",
        "metadata": {"name": name, "finalizers": list(finalizers)},
        "spec": {},
    }


def run_release(namespace: str) -> str:
    result = CliRunner().invoke(release, ["--namespace", namespace])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_pool_that_waits_for_the_operator_can_go_without_it(
    control_plane: Kubernetes, kube_namespace: str
) -> None:
    control_plane.apply(make_pool("released", "plinth.dev/pool"))
    control_plane.kubectl("delete", "gpool", "released", "--wait=false")
    assert control_plane.get("gpool", "released")["metadata"]["deletionTimestamp"]
    assert "released GPUPool released" in run_release(kube_namespace)
    with pytest.raises(KubectlError, match="NotFound"):
        control_plane.get("gpool", "released")


def test_finalizers_of_others_stay_and_so_does_what_nobody_deletes(
    control_plane: Kubernetes, kube_namespace: str
) -> None:
    control_plane.apply(make_pool("shared", "plinth.dev/pool", "example.com/other"))
    try:
        run_release(kube_namespace)
        assert control_plane.get("gpool", "shared")["metadata"]["finalizers"] == ["example.com/other"]
        assert "shared" not in run_release(kube_namespace)
    finally:
        control_plane.kubectl(
            "patch", "gpool", "shared", "--type=merge", "-p", '{"metadata": {"finalizers": null}}'
        )
        control_plane.kubectl("delete", "gpool", "shared")


def test_the_operator_is_stopped_first(control_plane: Kubernetes, kube_namespace: str) -> None:
    control_plane.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": OPERATOR, "namespace": kube_namespace},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": LABELS},
                "template": {"metadata": {"labels": LABELS}, "spec": POD_SPEC},
            },
        }
    )
    run_release(kube_namespace)
    assert control_plane.get("deployment", OPERATOR, kube_namespace)["spec"]["replicas"] == 0


def test_what_the_operator_made_for_itself_goes_with_it(
    control_plane: Kubernetes, kube_namespace: str
) -> None:
    def make(api_version: str, kind: str, name: str, **fields: Any) -> dict[str, Any]:
        metadata = {"name": name, "namespace": kube_namespace}
        return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}

    control_plane.apply(
        make("coordination.k8s.io/v1", "Lease", "plinth-operator"),
        make("v1", "Secret", "plinth-webhook-certificates"),
        make("discovery.k8s.io/v1", "EndpointSlice", "plinth.table", addressType="IPv4", endpoints=[]),
        make("v1", "Secret", "of-the-team"),
    )
    run_release(kube_namespace)
    left = control_plane.list("leases,secrets,endpointslices", "-n", kube_namespace)
    assert [each["metadata"]["name"] for each in left] == ["of-the-team"]


async def test_an_operator_that_does_not_end_is_not_waited_for_for_ever(
    control_plane: Kubernetes, kube_namespace: str, client: KubeClient
) -> None:
    pod = {"metadata": {"name": "stuck", "namespace": kube_namespace, "labels": LABELS}, "spec": POD_SPEC}
    control_plane.apply({"apiVersion": "v1", "kind": "Pod", **pod})
    assert not await stop_operator(client, kube_namespace, seconds=0.2)
    control_plane.kubectl("delete", "pod", "stuck", "-n", kube_namespace, "--force")
    assert await stop_operator(client, kube_namespace, seconds=10)
