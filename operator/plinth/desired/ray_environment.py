"""The environment that Ray is started with: what it needs to serve models, on one machine and in a cluster alike."""

from __future__ import annotations

from collections.abc import Mapping

SERVING_ENVIRONMENT: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
    # Ray runs workers at nice 15 by default; here they are the engines, which is what the machine is for.
    "RAY_worker_niceness": "0",
    # Halves what Ray adds to each streamed chunk: the engine's app runs in the replica's own event loop.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # The gateway drains a replica before it is removed; Ray need not wait another 30 s.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    # The plan says which accelerators a replica has; Ray counts them, and hides none of its own choice.
    "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",
    "RAY_EXPERIMENTAL_NOSET_HIP_VISIBLE_DEVICES": "1",
    "RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES": "1",
    # Engines print thousands of lines while they load; they stay in Ray's log files.
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_DEDUP_LOGS": "0",
}
POD_ENVIRONMENT: Mapping[str, str] = {
    **SERVING_ENVIRONMENT,
    # On a busy machine a head is slow to start; to begin anew after half a minute would never end.
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "180",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "150",
    # The user has no home in the image, and only this can be written.
    "HOME": "/tmp",  # noqa: S108 - a volume of the pod's own
}
"""KubeRay adds what names the head and the token that all of its Ray's processes ask for."""
