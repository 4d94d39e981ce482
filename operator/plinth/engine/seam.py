"""The seam between a replica and what computes: an engine loads a model and answers OpenAI's API as an ASGI app.

The replica (`plinth.engine.replica`) knows nothing else of an engine, so llama.cpp and vLLM start, are probed,
fail and stop in the same way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from plinth.api.v1alpha1.modeldeployment import Task
from plinth.domain.figures import EngineFigures
from plinth.domain.fleet import ModelFormat, SeenDevice

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

PATHS = {
    Task.GENERATE: (
        *("/v1/chat/completions", "/v1/completions", "/v1/messages/count_tokens"),
        *("/tokenize", "/detokenize"),
        # What the gateway asks to carry a broken stream on: how long the context is, what a prompt is rendered to.
        *("/v1/models", "/apply-template"),
    ),
    Task.EMBED: ("/v1/embeddings",),
    Task.RERANK: ("/v1/rerank", "/v1/score"),
}
"""What a replica passes on to its engine, by task; all else of an engine's own server stays out of reach. An engine
that has one of these not says so itself: llama.cpp scores by reranking, and vLLM shows no rendered prompt."""


class EngineError(Exception):
    """The engine cannot serve this model; the text says why and what would work."""


class SourceError(Exception):
    """The model cannot be had from its source; the text says why and what would work."""


@dataclass(frozen=True, kw_only=True)
class LocalAdapter:
    """A LoRA adapter's files on this machine."""

    path: Path
    """The folder that holds adapter_config.json."""
    rank: int


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """A model's files on this machine."""

    path: Path
    """The file to open, or the folder that holds config.json."""
    format: ModelFormat
    weights_bytes: int
    adapters: dict[str, LocalAdapter] = field(default_factory=dict)
    """By their names in the spec."""


class Progress(Protocol):
    """Where an engine or a source reports how far it is."""

    def moved(self, done: int, total: int) -> None:
        """So many bytes of the present phase are done; total is 0 when unknown."""

    def saying(self, message: str) -> None:
        """What is being done now, in a few words."""


class Engine(Protocol):
    """One model in one process group, from load to close."""

    async def load(self, model: LocalModel, progress: Progress) -> ASGIApp:
        """The app that answers requests; the event loop keeps running meanwhile.

        Raises:
            EngineError: the model or an argument does not work with this engine.
        """

    async def figures(self) -> EngineFigures | None:
        """What the loaded engine says of its memory; None where it does not tell."""

    async def accelerators(self) -> tuple[SeenDevice, ...]:
        """Those that the loaded engine computes on, as it tells them itself; none on CPUs."""

    async def until_dead(self) -> str:
        """Return, with the cause, only when the loaded engine has died."""

    async def close(self) -> None:
        """Free all memory and end all processes; safe at any time, also twice."""
