"""What every process of a vLLM engine is told by its environment, set before vLLM is imported."""

from __future__ import annotations

import os

from plinth.domain.fleet import EngineSpec
from plinth.engine.network import keep_at

_ALWAYS = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout otherwise: causes of failures are looked for in one place
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # as `vllm serve` does; a fork of a Ray worker would share its threads
}


def prepare_environment(spec: EngineSpec, address: str) -> None:
    """For this process and all that it starts; `address` is where its parts on other nodes, if any, reach it."""
    os.environ |= _ALWAYS
    keep_at(address, os.environ)
    if spec.threads:
        # On CPUs: as many as planned, and none bound to a core that another replica may have bound too.
        os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(spec.threads)}
