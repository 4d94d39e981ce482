"""HTTP to one API server, below the client: credentials, the bound on calls at once, and what counts as no answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

import aiohttp
import msgspec

from plinth.cluster.kube.errors import Fence, KubeAway, error_of
from plinth.cluster.kube.login import Login, LoginError, find_login

CALLS_AT_ONCE = 32
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 90.0
"""A watch without even a bookmark, which come every minute, is dead."""
BAD_REQUESTS, UNAUTHORIZED = 400, 401

T = TypeVar("T")


class Transport(Protocol):
    """What the client needs of an API server; the tests have one without a network."""

    async def call(
        self,
        method: str,
        path: str,
        *,
        seconds: float,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        fence: Fence | None = None,
    ) -> dict[str, Any]:
        """One call and its answer. Raises KubeAway, KubeRefused, and what the fence raises."""

    def lines(self, path: str, query: Mapping[str, str]) -> AsyncIterator[dict[str, Any]]:
        """An answer that goes on, line by line. Raises KubeAway, KubeRefused."""

    async def close(self) -> None:
        """Close the connections."""


class HttpTransport:
    """The real one."""

    def __init__(self, login: Login, observe: Callable[[str, int], None]) -> None:
        self._login = login
        self._observe = observe
        self._turns = asyncio.Semaphore(CALLS_AT_ONCE)
        connector = aiohttp.TCPConnector(
            ssl=login.ssl if login.ssl is not None else True, limit=0, socket_factory=_make_socket
        )
        self._session = aiohttp.ClientSession(connector=connector, read_bufsize=2**20)

    async def close(self) -> None:
        """See Transport."""
        await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        seconds: float,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        fence: Fence | None = None,
    ) -> dict[str, Any]:
        """See Transport."""
        async with self._turns:
            # Only now: waiting for a turn is not part of the write that the fence allows.
            if fence is not None:
                fence.check()
            exchange = self._exchange(method, path, query, headers or {}, body, seconds=seconds)
            try:
                status, text = await (exchange if fence is None else to_its_end(exchange))
            except (aiohttp.ClientError, OSError, TimeoutError, LoginError) as error:
                self._observe(method, 0)
                raise KubeAway(f"no answer to {method} {path}: {error!r}") from error
        self._observe(method, status)
        if status >= BAD_REQUESTS:
            raise error_of(status, _decode_error(text))
        return _decode(text)

    async def lines(self, path: str, query: Mapping[str, str]) -> AsyncIterator[dict[str, Any]]:
        """See Transport. A line may be longer than any buffer."""
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        rest = b""
        try:
            headers = await self._login.headers()
            async with self._request("GET", path, query, headers, timeout=timeout) as answer:
                self._observe("WATCH", answer.status)
                if answer.status >= BAD_REQUESTS:
                    raise error_of(answer.status, _decode_error(await answer.read()))
                async for chunk in answer.content.iter_any():
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        yield _decode(line)
        except (aiohttp.ClientError, OSError, TimeoutError, LoginError) as error:
            self._observe("WATCH", 0)
            raise KubeAway(f"the watch of {path} was cut: {error!r}") from error

    async def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        seconds: float,
    ) -> tuple[int, bytes]:
        async with asyncio.timeout(seconds):
            status, text = await self._send(method, path, query, headers, body)
            if status == UNAUTHORIZED:
                # What a file or a plugin gave may have been replaced since it was read.
                self._login = await find_login()
                status, text = await self._send(method, path, query, headers, body)
            return status, text

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> tuple[int, bytes]:
        who = await self._login.headers()
        async with self._request(method, path, query, {**who, **headers}, body=body) as answer:
            return answer.status, await answer.read()

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str],
        *,
        body: bytes | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> Any:
        return self._session.request(
            method,
            self._login.server + path,
            params=query,
            headers=headers,
            data=body,
            timeout=timeout or aiohttp.ClientTimeout(),
            server_hostname=self._login.server_name,
        )


async def to_its_end(exchange: Coroutine[Any, Any, T]) -> T:
    """A fenced write once begun: a caller that is cancelled still waits until it is over, since another may lead then."""
    task = asyncio.ensure_future(exchange)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # taken note of: nobody is left to be told
        raise


def _make_socket(address: Any) -> socket.socket:
    """A socket that notices within half a minute that the other side has vanished without a word."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):  # not on every system, and only a matter of how soon
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    made.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return made


def _decode(text: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise KubeAway(f"the API server's answer is not JSON: {text[:200]!r}") from error


def _decode_error(text: bytes) -> dict[str, Any]:
    """A refusal's body; what stands before the API server, or it itself while starting, may answer plain text."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return {"message": text[:200].decode(errors="replace")}
