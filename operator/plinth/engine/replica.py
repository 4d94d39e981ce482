"""One replica's life: find the model, fetch it, load the engine, prove it with one request, serve, and end.

Started by the gate when Ray Serve brings the actor up; the fleet cycle follows it by `GET …/plinth/state`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from plinth.domain.fleet import EngineReport, EngineSpec, SlotPhase
from plinth.engine.credentials import TokenSource
from plinth.engine.logs import LogMark
from plinth.engine.nvml import find_fault
from plinth.engine.place import Fetch
from plinth.engine.probe import probe
from plinth.engine.progress import ReplicaProgress
from plinth.engine.seam import ASGIApp, Engine, EngineError, LocalModel, SourceError

_log = logging.getLogger(__name__)


class Replica:
    """A model from source to serving; `report` tells how far it is, `app` answers once it is Ready."""

    def __init__(
        self,
        spec: EngineSpec,
        fetch: Fetch,
        engine: Engine,
        token: TokenSource | None = None,
        *,
        find_fault: Callable[[Iterable[str]], str] = find_fault,
    ) -> None:
        self.spec = spec
        self.progress = ReplicaProgress()
        self.app: ASGIApp | None = None
        self._fetch = fetch
        self._engine = engine
        self._token = token
        self._find_fault = find_fault
        self._mark = LogMark.here()

    async def run(self) -> None:
        """Bring the replica up and watch it; returns when it has failed, for good: a retry is a new replica."""
        try:
            await self._start()
            self._fail(await self._engine.until_dead())
        except (EngineError, SourceError) as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 - the top frame: whatever went wrong is told where people look for it
            _log.exception("The replica failed.")
            self._fail(f"{type(error).__name__}: {error}")
        self.app = None
        await self._engine.close()

    async def report(self) -> EngineReport:
        """What it says of itself; of its accelerators, how they are now."""
        report = self.progress.report
        if not report.accelerators:
            return report
        uuids = [each.uuid for each in report.accelerators]
        return replace(report, fault=await asyncio.to_thread(self._find_fault, uuids))

    async def _start(self) -> None:
        model = await self._find()
        self.progress.enter(SlotPhase.LOADING)
        app = await self._engine.load(model, self.progress)
        self.progress.enter(SlotPhase.PROBING)
        await probe(app, self.spec)
        figures = await self._engine.figures()
        accelerators = await self._engine.accelerators()
        self.app = app
        self.progress.ready(figures, accelerators)

    async def _find(self) -> LocalModel:
        """The model's files; the token is known for as long as this takes."""
        token = await self._token.take(self.progress) if self._token else None
        self.progress.enter(SlotPhase.DOWNLOADING, "finding the model")
        return await asyncio.to_thread(self._fetch, token, self.progress)

    def _fail(self, message: str) -> None:
        self.progress.fail(message, self._mark.meaningful_lines())

    async def close(self) -> None:
        """Take no more requests and free everything."""
        self.app = None
        self.progress.enter(SlotPhase.STOPPING)
        await self._engine.close()
