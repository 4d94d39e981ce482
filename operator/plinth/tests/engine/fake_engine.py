"""An engine that does as a test tells it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from plinth.domain.figures import EngineFigures
from plinth.domain.fleet import ModelFormat, SeenDevice
from plinth.engine.refusals import send_json
from plinth.engine.seam import ASGIApp, LocalModel, Progress, Receive, Scope, Send
from plinth.tests.engine.serving import PREFIX

MODEL = LocalModel(path=Path("/m.gguf"), format=ModelFormat.GGUF, weights_bytes=1000)


class FakeEngine:
    """Loads when told, answers as told, dies when told."""

    def __init__(self) -> None:
        self.loaded = asyncio.Event()
        self.died = asyncio.Event()
        self.answer: object = {"choices": [{"text": "!"}]}
        self.load_error: Exception | None = None
        self.tells: EngineFigures | None = None
        self.sees: tuple[SeenDevice, ...] = ()
        self.probed = asyncio.Event()
        self.probed.set()
        self.closed = 0

    async def load(self, model: LocalModel, progress: Progress) -> ASGIApp:
        progress.moved(500, model.weights_bytes)
        await self.loaded.wait()
        if self.load_error is not None:
            raise self.load_error
        return self._respond

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["path"] in {"/v1/completions", PREFIX + "/v1/completions"}
        await receive()
        await self.probed.wait()
        await send_json(send, 200, self.answer)

    async def figures(self) -> EngineFigures | None:
        return self.tells

    async def accelerators(self) -> tuple[SeenDevice, ...]:
        return self.sees

    async def until_dead(self) -> str:
        await self.died.wait()
        return "the engine died"

    async def close(self) -> None:
        self.closed += 1
