"""Puts one replica together from the arguments of its Serve application: gate, life, source and engine.

Knows nothing of Ray, so that a replica can be driven by any ASGI server.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from plinth.domain.fleet import Engine, EngineSpec
from plinth.engine import seam
from plinth.engine.gate import Gate
from plinth.engine.replica import Replica
from plinth.engine.sources import ModelFetcher


class RuntimePaths(msgspec.Struct, frozen=True, kw_only=True):
    """Files of the node that a replica runs on. Secrets come as paths only, never as values."""

    secret_file: str
    """Holds the secret that callers must show."""
    cache_dir: str
    """Models, shared by all replicas of the node."""
    secrets_dir: str | None = None
    """`NAME/KEY` below it holds the value of a secret's key."""


class ReplicaArgs(msgspec.Struct, frozen=True, kw_only=True):
    """The `args` of a slot's Serve application."""

    spec: EngineSpec
    slot: str
    runtime: RuntimePaths


def make_gate(args: ReplicaArgs) -> Gate:
    """The ASGI app of a replica, which begins its work when its lifespan starts."""
    runtime = args.runtime
    secret = Path(runtime.secret_file).read_text(encoding="utf-8").strip()
    if not secret:
        raise ValueError(f"{runtime.secret_file} is empty; a replica serves nobody without a secret")
    fetch = ModelFetcher(
        source=args.spec.source,
        revision=args.spec.source_revision,
        credentials=args.spec.credentials,
        secrets_dir=Path(runtime.secrets_dir) if runtime.secrets_dir else None,
        cache_dir=Path(runtime.cache_dir).expanduser(),
    )
    return Gate(
        Replica(args.spec, fetch, make_engine(args.spec, Path(runtime.cache_dir).expanduser())), secret
    )


def make_engine(spec: EngineSpec, cache_dir: Path) -> seam.Engine:
    """The engine that the plan chose. Imported here: a llama.cpp replica never loads vLLM's code, nor torch."""
    if spec.engine == Engine.VLLM:
        from plinth.engine.vllm import VllmEngine  # noqa: PLC0415 - see above

        return VllmEngine(spec, cache_dir)
    from plinth.engine.llamacpp import LlamaCppEngine  # noqa: PLC0415 - see above

    return LlamaCppEngine(spec)
