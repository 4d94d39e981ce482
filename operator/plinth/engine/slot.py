"""Puts one replica together from the arguments of its Serve application: gate, life, source and engine.

Knows nothing of Ray, so that a replica can be driven by any ASGI server.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from plinth.domain.fleet import Engine, EngineSpec, SlotName
from plinth.engine import seam
from plinth.engine.credentials import FolderToken, PushedToken
from plinth.engine.environment import give_home
from plinth.engine.gate import Gate
from plinth.engine.local_sources import SourcePlaces
from plinth.engine.place import ALONE, Place
from plinth.engine.replica import Replica
from plinth.engine.sources import ModelFetcher


class RuntimePaths(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine has for a replica, and how far it may reach there. Secrets are paths, never values."""

    secret_file: str
    """Holds the secret that callers must show."""
    cache_dir: str
    """Models, shared by all replicas of the node."""
    secrets_dir: str | None = None
    """`NAME/KEY` below it holds the value of a secret's key; without it, the operator hands over what is needed."""
    shared_models: str | None = None
    """`file://` must lie below it; None: it may name any file."""
    volumes: str | None = None
    """Volume claims by name; None: there are none."""
    trust_remote_code: bool = False
    """Whether engine arguments may reach further than the model: run code, open files, call addresses."""


class ReplicaArgs(msgspec.Struct, frozen=True, kw_only=True):
    """The `args` of a slot's Serve application."""

    spec: EngineSpec
    slot: str
    runtime: RuntimePaths
    accelerators: tuple[tuple[int, ...], ...] = ()
    """By index, one list for each node that the replica spans, its own first; without any, Ray chooses."""

    def accelerators_on(self, part: int) -> tuple[int, ...]:
        """Those of one of its nodes; none where they are not said."""
        return self.accelerators[part] if part < len(self.accelerators) else ()


def make_gate(args: ReplicaArgs, place: Place = ALONE) -> Gate:
    """The ASGI app of a replica, which begins its work when its lifespan starts."""
    runtime = args.runtime
    secret = Path(runtime.secret_file).read_text(encoding="utf-8").strip()
    if not secret:
        raise ValueError(f"{runtime.secret_file} is empty; a replica serves nobody without a secret")
    cache_dir = Path(runtime.cache_dir).expanduser()
    give_home(cache_dir)
    token, inbox = _token(args)
    replica = Replica(
        args.spec,
        place.fetching(make_fetcher(args, cache_dir)),
        make_engine(args.spec, cache_dir, place, trust_remote_code=runtime.trust_remote_code),
        token,
    )
    return Gate(replica, secret, inbox)


def _token(args: ReplicaArgs) -> tuple[FolderToken | PushedToken | None, PushedToken | None]:
    """Where the source's token comes from, and where the gate puts one that is handed over."""
    credentials, secrets_dir = args.spec.credentials, args.runtime.secrets_dir
    if credentials is None:
        return None, None
    if secrets_dir is not None:
        return FolderToken(credentials=credentials, secrets_dir=Path(secrets_dir)), None
    inbox = PushedToken(credentials)
    return inbox, inbox


def make_fetcher(args: ReplicaArgs, cache_dir: Path) -> ModelFetcher:
    """What brings the replica's model to the node that it is called on."""
    slot = SlotName.parse(args.slot)
    if slot is None:
        raise ValueError(f"{args.slot!r} is no slot's name; it must be namespace.model.revision.ordinal")
    runtime = args.runtime
    return ModelFetcher(
        source=args.spec.source,
        revision=args.spec.source_revision,
        adapters=args.spec.adapters,
        places=SourcePlaces(
            shared=Path(runtime.shared_models) if runtime.shared_models else None,
            volumes=Path(runtime.volumes) if runtime.volumes else None,
        ),
        cache_dir=cache_dir,
        private_cache_dir=cache_dir / "private" / slot.model.namespace,
    )


def make_engine(spec: EngineSpec, cache_dir: Path, place: Place, *, trust_remote_code: bool) -> seam.Engine:
    """The engine that the plan chose. Imported here: a llama.cpp replica never loads vLLM's code, nor torch."""
    if spec.engine == Engine.VLLM:
        from plinth.engine.vllm import VllmEngine  # noqa: PLC0415 - see above

        return VllmEngine(spec, cache_dir, trust_remote_code=trust_remote_code, place=place)
    from plinth.engine.llamacpp import LlamaCppEngine  # noqa: PLC0415 - see above

    return LlamaCppEngine(spec, trust_remote_code=trust_remote_code, here=place.here)
