"""Hands a request on to an engine's own server on this machine's loopback, and its answer back as it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp

from plinth.engine.refusals import send_error
from plinth.engine.seam import Receive, Scope, Send

_PASSED_BACK = frozenset({"content-type", "cache-control"})
_CONNECT_SECONDS = 5.0
_SERVER_ERROR = 500


class ClientGoneError(Exception):
    """The client hung up: whatever the engine does for it must end."""


class BodyTooLargeError(Exception):
    """The request's body is larger than what is asked for can be."""


class LoopbackForwarder:
    """An ASGI app in front of `address`.

    One connection a request: closing it is how the engine learns that its client is gone, and llama.cpp's
    server gives each open connection a thread, which an idle kept one would hold. `judge` gives the status of an
    error, by what the engine said.
    """

    def __init__(self, address: str, key: str, judge: Callable[[int, bytes], int]) -> None:
        self._address = address
        self._judge = judge
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a failure before the first byte becomes a 502, one after it cuts the answer."""
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
        try:
            body = await read_body(receive)
        except ClientGoneError:
            return
        passing = asyncio.create_task(self._pass(str(scope["method"]), path, body, send))
        leaving = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Also on the way out of a cancellation, which is how Ray Serve tells of a client that hung up.
            leaving.cancel()
            passing.cancel()
            await asyncio.wait({passing, leaving})
        if not passing.cancelled():
            passing.result()

    async def _pass(self, method: str, path: str, body: bytes, send: Send) -> None:
        try:
            response = await self._open().request(
                method, self._address + path, data=body, headers=self._headers
            )
        except aiohttp.ClientError as error:
            await send_error(send, 502, "engine_unreachable", f"The engine did not answer: {error}")
            return
        async with response:
            headers = [
                (k.lower().encode(), v.encode())
                for k, v in response.headers.items()
                if k.lower() in _PASSED_BACK
            ]
            if response.status >= _SERVER_ERROR:
                said = await response.read()
                status = self._judge(response.status, said)
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": said, "more_body": False})
                return
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
                auto_decompress=False,
            )
        return self._session

    async def close(self) -> None:
        """Cut what is still under way."""
        if self._session is not None:
            await self._session.close()


async def read_body(receive: Receive, *, most: int | None = None) -> bytes:
    """The whole body of a request.

    Raises:
        ClientGoneError: the client hung up before its end.
        BodyTooLargeError: it has more than `most` bytes.
    """
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        if most is not None and sum(map(len, parts)) > most:
            raise BodyTooLargeError
        if not message.get("more_body", False):
            return b"".join(parts)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
