"""Engine arguments that are not the user's to set, each with where to say it instead.

Admission refuses them; the engines refuse them again, by lists of their own that this one holds whole.
"""

from __future__ import annotations

LEAVE_OUT = "leave it out: Plinth sees to it"

SAID_ELSEWHERE: dict[str, str] = {
    "alias": "set spec.servedName",
    "ctx-size": "set spec.objectives.contextTokens",
    "data-parallel-size": "set spec.parallelism.data",
    "embedding": "set spec.model.task",
    "enable-expert-parallel": "set spec.parallelism.expert",
    "enable-lora": "set spec.adapters",
    "gpu-memory-utilization": "set spec.memoryUtilizationPercent of the GPUPool",
    "hf-token": "set spec.model.credentials",
    "lora-modules": "set spec.adapters",
    "max-lora-rank": "set spec.adapters[].rank",
    "max-model-len": "set spec.objectives.contextTokens",
    "model": "set spec.model.source",
    "model-tag": "set spec.model.source",
    "n-ctx": "set spec.objectives.contextTokens",
    "n-parallel": "set spec.objectives.concurrency",
    "pipeline-parallel-size": "set spec.parallelism.pipeline",
    "revision": "set spec.model.revision",
    "served-model-name": "set spec.servedName",
    "tensor-parallel-size": "set spec.parallelism.tensor",
}
"""Arguments that a field of the spec says."""

_LISTENING = (
    *("allowed-origins", "api-prefix", "api-server-count", "grpc", "headless", "host", "hostnames", "port"),
    *("reuse-port", "root-path", "uds"),
)
_SECRETS = (
    *("api-key", "api-key-file", "api-keys", "ssl-ca-certs", "ssl-certfile", "ssl-file-cert"),
    *("ssl-file-key", "ssl-keyfile"),
)
_PLACES = ("device-ids", "master-addr", "master-port", "nnodes", "node-rank")
_BEYOND_INFERENCE = (
    *("config", "distributed-executor-backend", "endpoint-metrics", "endpoint-props", "endpoint-slots"),
    *("mcp-servers-config", "mcp-servers-json", "media-path", "middleware", "models-dir", "public-path"),
    *("server-tools", "slot-save-path", "ui"),
)

OWNED_ARGUMENTS: dict[str, str] = dict(
    sorted(
        (
            SAID_ELSEWHERE | dict.fromkeys((*_LISTENING, *_SECRETS, *_PLACES, *_BEYOND_INFERENCE), LEAVE_OUT)
        ).items()
    )
)
"""All of them. Left out are where engines listen and compute, by what secret they answer, and what is more than inference."""
