"""Objects of our kinds as an API server gives them."""

from __future__ import annotations

from typing import Any

from plinth.api.v1alpha1 import API_VERSION, ModelDeploymentStatus
from plinth.tests.cluster.kube.fake_api_server import FakeApiServer

MODELS = "/apis/plinth.dev/v1alpha1/modeldeployments"
POOLS = "/apis/plinth.dev/v1alpha1/gpupools"
POLICIES = "/apis/plinth.dev/v1alpha1/quotapolicies"
CREATED = "2026-01-01T00:00:00Z"


def make_model(name: str = "smol", *, namespace: str = "team-a", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": CREATED},
        "spec": {"model": {"source": "hf://org/smol"}, **spec},
    }


def make_pool(name: str = "h200", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "GPUPool",
        "metadata": {"name": name, "creationTimestamp": CREATED},
        "spec": spec,
    }


def put_model(server: FakeApiServer, name: str = "smol", **spec: Any) -> dict[str, Any]:
    return server.put(MODELS, make_model(name, **spec))


def put_policy(server: FakeApiServer, name: str = "standard", **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "team-a", "creationTimestamp": CREATED}
    manifest = {"apiVersion": API_VERSION, "kind": "QuotaPolicy", "metadata": metadata, "spec": spec}
    return server.put(POLICIES, manifest)


def make_status(*, replicas: int = 1, shape: str = "1xTP1") -> ModelDeploymentStatus:
    return ModelDeploymentStatus(
        observed_generation=1,
        replicas=replicas,
        shape=shape,
        conditions=[
            {
                "type": "Ready",
                "status": "True",
                "reason": "Serving",
                "message": "it answers",
                "lastTransitionTime": CREATED,
                "observedGeneration": 1,
            }
        ],
    )
