"""The ASGI app of one replica: checks the secret, tells the state, and lets requests through once Ready.

`{prefix}/plinth/state` answers from the first moment on. Everything else is 503 until the probe succeeded.
"""

from __future__ import annotations

import asyncio
import hmac
from contextlib import suppress

from plinth.api.v1alpha1.modeldeployment import Task
from plinth.domain.fleet import SlotPhase
from plinth.engine.refusals import send_error, send_json
from plinth.engine.replica import Replica
from plinth.engine.seam import PATHS, Receive, Scope, Send


class Gate:
    """One replica's front door; the lifespan starts the replica and closes it."""

    def __init__(self, replica: Replica, secret: str) -> None:
        self._replica = replica
        self._credential = f"Bearer {secret}".encode()
        self._paths = frozenset(PATHS[Task(replica.spec.task)])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection event, as ASGI defines them."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        running = asyncio.create_task(self._replica.run())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await self._replica.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._knows(scope):
            await send_error(send, 401, "invalid_api_key", "This engine answers Plinth's gateway only.")
            return
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
        if path == "/plinth/state":
            await send_json(send, 200, self._replica.progress.report)
            return
        report = self._replica.progress.report
        app = self._replica.app
        if app is None or report.phase is not SlotPhase.READY:
            message = f"This replica is {report.phase.lower()}: {report.message}".rstrip(": ")
            await send_error(send, 503, "replica_not_ready", message)
        elif path not in self._paths:
            await send_error(
                send, 404, "unknown_path", f"{path} is not answered by a {self._replica.spec.task} model."
            )
        else:
            await app(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        sent = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(sent, self._credential)
