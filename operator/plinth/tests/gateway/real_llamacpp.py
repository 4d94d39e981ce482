"""A real llama.cpp with the small model that the tests carry."""

from __future__ import annotations

from typing import Any

import xllamacpp

from plinth.tests.engine.serving import smollm2_path


def serve_llamacpp(*, slots: int, context: int, **fields: Any) -> Any:
    """The server, on a free port; it ends with its last name. `fields` are those of `CommonParams`."""
    params = xllamacpp.CommonParams()
    params.model.path = str(smollm2_path())
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = slots
    params.n_ctx = context
    params.warmup = False
    # One thread: several spin while they wait for each other, which starves everything on a busy machine.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    for name, value in fields.items():
        setattr(params, name, value)
    return xllamacpp.Server(params)
