"""What the replicas in a pool's pods are told: the paths that the pods have, and how far a model may reach there.

Whoever makes the pods mounts these paths; whoever makes the Serve config says them. Both take them from here.
"""

from __future__ import annotations

from plinth.api.v1alpha1 import GPUPool
from plinth.api.v1alpha1.workers import TrustRemoteCode
from plinth.desired.serve_config import ServeSettings
from plinth.domain.sources import SHARED_MODELS, VOLUMES

ENGINE_SECRET_FILE = "/etc/plinth/engine/secret"  # noqa: S105 - where it lies, not what it is
CACHE_DIR = "/var/cache/plinth"
SERVE_PORT = 8000
EVERYWHERE = "0.0.0.0"  # noqa: S104 - in a pod; the gateway is another one


def make_pod_settings(pool: GPUPool) -> ServeSettings:
    """Without a folder of secrets: credentials are handed over. Volumes are a dedicated pool's only."""
    return ServeSettings(
        secret_file=ENGINE_SECRET_FILE,
        cache_dir=CACHE_DIR,
        http_host=EVERYWHERE,
        http_port=SERVE_PORT,
        shared_models=SHARED_MODELS,
        volumes=VOLUMES if pool.spec.namespace else None,
        trust_remote_code=pool.spec.trust_remote_code is TrustRemoteCode.ALLOWED,
    )
