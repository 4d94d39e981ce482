"""Every name by which Kubernetes, KubeRay and Plinth find a pool's RayClusters and what belongs to them."""

from __future__ import annotations

import hashlib

from plinth.api.v1alpha1 import GPUPool

POOL_LABEL = "plinth.dev/pool"
"""On RayClusters and their pods: the GPUPool that they are for. Network policies select pods by it."""
CLUSTER_LABEL = "ray.io/cluster"
GROUP_LABEL = "ray.io/group"
NODE_KIND_LABEL = "ray.io/node-type"
HEAD, WORKER = "head", "worker"
"""What KubeRay writes as a pod's kind; a third one cleans up Redis."""
RAY_CONTAINER = "ray"
INSPECTOR_CONTAINER = "inspector"
ENGINE_SECRET = "plinth-engine"  # noqa: S105 - a name
REDIS_PASSWORD_KEY = "password"  # noqa: S105 - a name
TOKEN_KEY = "auth_token"  # noqa: S105 - a name
"""The key of KubeRay's Secret, which has the RayCluster's own name."""
DASHBOARD_PORT, GCS_PORT, AGENT_PORT, INSPECTOR_PORT = 8265, 6379, 52365, 8270
LONGEST_POOL_NAME = 41
"""KubeRay cuts the names it makes after 50 characters; 9 are the revision's."""


def ray_cluster_name(pool: str, revision: str) -> str:
    """`<pool>-<revision>`, where the pool's name is too long or begins with a digit: a shorter one of its own."""
    if len(pool) > LONGEST_POOL_NAME or not pool[0].isalpha():
        digest = hashlib.sha256(pool.encode()).hexdigest()[:8]
        pool = f"p-{pool[:24].rstrip('-')}-{digest}"
    return f"{pool}-{revision}"


def namespace_of(pool: GPUPool, release_namespace: str) -> str:
    """Where the pool's RayClusters are: a dedicated pool's in the namespace that it serves."""
    return pool.spec.namespace or release_namespace
