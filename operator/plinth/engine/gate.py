"""The ASGI app of one replica: checks the secret, tells the state, and lets requests through once Ready.

`{prefix}/plinth/state` answers from the first moment on, and `{prefix}/plinth/credentials` takes the token that a
gated source asks for. Everything else is 503 until the probe succeeded.
"""

from __future__ import annotations

import asyncio
import hmac
from contextlib import suppress

import msgspec
from pydantic import SecretStr

from plinth.api.v1alpha1.modeldeployment import Task
from plinth.domain.fleet import SlotPhase
from plinth.engine.credentials import PushedToken
from plinth.engine.loopback import BodyTooLargeError, ClientGoneError, read_body
from plinth.engine.refusals import send_error, send_json
from plinth.engine.replica import Replica
from plinth.engine.seam import PATHS, Receive, Scope, Send

MAX_TOKEN_BYTES = 16 * 1024


class _Delivery(msgspec.Struct):
    """The body of `PUT …/plinth/credentials`."""

    token: str


class Gate:
    """One replica's front door; the lifespan starts the replica and closes it."""

    def __init__(self, replica: Replica, secret: str, inbox: PushedToken | None = None) -> None:
        self._replica = replica
        self._inbox = inbox
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
            await send_json(send, 200, await self._replica.report())
            return
        if path == "/plinth/credentials":
            await self._take_credentials(scope, receive, send)
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

    async def _take_credentials(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "PUT":
            await send_error(send, 405, "method_not_allowed", "Credentials are put, and never told.")
            return
        try:
            body = await read_body(receive, most=MAX_TOKEN_BYTES)
            token = msgspec.json.decode(body, type=_Delivery).token.strip()
        except ClientGoneError:
            return
        except (BodyTooLargeError, msgspec.MsgspecError, UnicodeDecodeError):
            token = ""
        if not token:
            message = f'The body must be {{"token": "…"}} with a token, in at most {MAX_TOKEN_BYTES} bytes.'
            await send_error(send, 400, "invalid_credentials", message)
        elif self._inbox is not None and self._inbox.put(SecretStr(token)):
            await send_json(send, 200, {})
        else:
            await send_error(send, 409, "not_awaited", "This replica does not wait for credentials.")

    def _knows(self, scope: Scope) -> bool:
        sent = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(sent, self._credential)
