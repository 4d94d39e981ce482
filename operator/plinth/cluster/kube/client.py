"""A thin client of the Kubernetes API: plain dictionaries in and out, every call bounded in time.

All adapters in this package go through it. Whatever goes wrong is translated here and nowhere else: KubeAway where
nothing is known of the outcome, KubeRefused where the API server said no. A client made by `fenced` asks its fence
before every call that changes something.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

import aiohttp
import msgspec

from plinth.cluster.kube.kinds import (
    CONFIG_MAP,
    CRD,
    ENDPOINT_SLICE,
    EVENT,
    GPU_POOL,
    LEASE,
    MODEL_DEPLOYMENT,
    MUTATING_WEBHOOKS,
    NODE,
    POD,
    RAY_CLUSTER,
    SECRET,
    SERVICE,
    VALIDATING_WEBHOOKS,
    Kind,
)
from plinth.cluster.kube.login import Login, LoginError, find_login

__all__ = [
    "CONFIG_MAP",
    "CRD",
    "ENDPOINT_SLICE",
    "EVENT",
    "FIELD_MANAGER",
    "GPU_POOL",
    "LEASE",
    "MODEL_DEPLOYMENT",
    "MUTATING_WEBHOOKS",
    "NODE",
    "POD",
    "RAY_CLUSTER",
    "SECRET",
    "SERVICE",
    "VALIDATING_WEBHOOKS",
    "WRITE_SECONDS",
    "Fence",
    "Kind",
    "KubeAway",
    "KubeClient",
    "KubeRefused",
    "NotLeaderError",
]

FIELD_MANAGER = "plinth"
WRITE_SECONDS = 5.0
"""How long a mutating call may take: what fencing counts with."""
READ_SECONDS = 30.0
WATCH_SECONDS = 300
"""How long the API server keeps one watch open; it is then begun again where it ended."""
SILENCE_SECONDS = 90.0
"""A watch without even a bookmark, which come every minute, is dead."""
PAGE_SIZE = 500
CALLS_AT_ONCE = 32
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

UNAUTHORIZED, NOT_FOUND, TOO_MANY, SERVER_ERRORS = 401, 404, 429, 500
BAD_REQUESTS = 400


class KubeAway(Exception):  # noqa: N818 - a state of the world
    """No answer, or one that says nothing of the request (5xx, 429): a write may or may not have happened."""


class KubeRefused(Exception):  # noqa: N818 - an answer, not a fault of ours
    """The API server said no."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status, self.reason, self.message = status, reason, message
        super().__init__(f"{status} {reason}: {message}")


class NotLeaderError(Exception):
    """This process must not change anything now: it is not, or may soon not be, the leader."""


class Fence(Protocol):
    """Whether this process may still change things."""

    def check(self) -> None:
        """Raise NotLeaderError unless a write begun now surely ends before anyone else leads."""


class KubeClient:
    """One API server. Clients made by `fenced` share its connections."""

    def __init__(self, connection: _Connection, fence: Fence | None = None) -> None:
        self._connection = connection
        self._fence = fence

    @classmethod
    async def connect(cls, *, observe: Callable[[str, int], None] | None = None) -> KubeClient:
        """With the pod's account, else KUBECONFIG; `observe` is told each answer's verb and status (0: none).

        Raises LoginError.
        """
        return cls(_Connection(await find_login(), observe or (lambda _verb, _status: None)))

    def fenced(self, fence: Fence) -> KubeClient:
        """The same client, whose mutating calls raise NotLeaderError when the fence says so."""
        return KubeClient(self._connection, fence)

    async def close(self) -> None:
        """Close the connections, those of all clients that share them."""
        await self._connection.close()

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
        """One object; None where there is none."""
        try:
            return await self._connection.call("GET", kind.path(namespace, name), seconds=READ_SECONDS)
        except KubeRefused as refusal:
            if refusal.status == NOT_FOUND:
                return None
            raise

    async def list(
        self, kind: Kind, *, namespace: str = "", labels: str = "", metadata_only: bool = False
    ) -> tuple[list[dict[str, Any]], str]:
        """All objects, page by page, and the resource version that they are of."""
        items: list[dict[str, Any]] = []
        query = _selection(labels) | {"limit": str(PAGE_SIZE)}
        accept = METADATA_ONLY if metadata_only else "application/json"
        while True:
            page = await self._connection.call(
                "GET", kind.path(namespace), query=query, headers={"Accept": accept}, seconds=READ_SECONDS
            )
            items += page.get("items") or []
            if not page["metadata"].get("continue"):
                return items, page["metadata"]["resourceVersion"]
            query["continue"] = page["metadata"]["continue"]

    async def watch(
        self, kind: Kind, *, resource_version: str, namespace: str = "", labels: str = ""
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Changes since then, bookmarks among them, until the API server ends the watch.

        Raises KubeAway when it is cut, and KubeRefused (410) when that version is too old.
        """
        query = _selection(labels) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        async for line in self._connection.lines(kind.path(namespace), query):
            event = _decode(line)
            if event["type"] == "ERROR":
                raise _refusal(int(event["object"].get("code") or SERVER_ERRORS), event["object"])
            yield event["type"], event["object"]

    async def apply(
        self, kind: Kind, body: Mapping[str, Any], *, subresource: str = "", force: bool = True
    ) -> dict[str, Any]:
        """Server-side apply: the fields in the body become ours, those we no longer name are removed."""
        metadata = body["metadata"]
        return await self._write(
            "PATCH",
            kind.path(metadata.get("namespace", ""), metadata["name"], subresource),
            {"apiVersion": kind.api_version, "kind": kind.kind, **body},
            query={"force": "true" if force else "false"},
            content_type="application/apply-patch+yaml",
        )

    async def patch(
        self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> dict[str, Any]:
        """JSON merge patch."""
        path = kind.path(namespace, name, subresource)
        return await self._write("PATCH", path, patch, content_type="application/merge-patch+json")

    async def create(self, kind: Kind, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object."""
        manifest = {"apiVersion": kind.api_version, "kind": kind.kind, **body}
        return await self._write("POST", kind.path(body["metadata"].get("namespace", "")), manifest)

    async def replace(self, kind: Kind, body: Mapping[str, Any]) -> dict[str, Any]:
        """Replace an object, if it is still at the body's resourceVersion (else KubeRefused, 409)."""
        metadata = body["metadata"]
        manifest = {"apiVersion": kind.api_version, "kind": kind.kind, **body}
        return await self._write("PUT", kind.path(metadata.get("namespace", ""), metadata["name"]), manifest)

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str = "") -> None:
        """Delete an object, with its dependants after it; one that is gone already is fine.

        With a uid only that object, not another that has taken its name (KubeRefused, 409).
        """
        options: dict[str, Any] = {"propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            await self._write("DELETE", kind.path(namespace, name), options)
        except KubeRefused as refusal:
            if refusal.status != NOT_FOUND:
                raise

    async def _write(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any],
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        return await self._connection.call(
            method,
            path,
            # The server gives up when we do: a write that we no longer wait for does not happen later.
            query={"fieldManager": FIELD_MANAGER, "timeout": f"{WRITE_SECONDS:.0f}s", **(query or {})},
            headers={"Content-Type": content_type},
            body=msgspec.json.encode(body),
            seconds=WRITE_SECONDS,
            fence=self._fence,
        )


class _Connection:
    """HTTP to one API server: credentials, the bound on calls at once, and the translation of errors."""

    def __init__(self, login: Login, observe: Callable[[str, int], None]) -> None:
        self._login = login
        self._observe = observe
        self._turns = asyncio.Semaphore(CALLS_AT_ONCE)
        connector = aiohttp.TCPConnector(
            ssl=login.ssl if login.ssl is not None else True, limit=0, socket_factory=_make_socket
        )
        self._session = aiohttp.ClientSession(connector=connector, read_bufsize=2**20)

    async def close(self) -> None:
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
        async with self._turns:
            # Only now: waiting for a turn is not part of the write that the fence allows.
            if fence is not None:
                fence.check()
            try:
                async with asyncio.timeout(seconds):
                    status, text = await self._exchange(method, path, query, headers or {}, body)
            except (aiohttp.ClientError, OSError, TimeoutError, LoginError) as error:
                self._observe(method, 0)
                raise KubeAway(f"no answer to {method} {path}: {error!r}") from error
        self._observe(method, status)
        answer = _decode(text)
        if status >= BAD_REQUESTS:
            raise _refusal(status, answer)
        return answer

    async def lines(self, path: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The lines of an answer that goes on; a line may be longer than any buffer."""
        timeout = aiohttp.ClientTimeout(sock_connect=WRITE_SECONDS, sock_read=SILENCE_SECONDS)
        rest = b""
        try:
            async with self._request(
                "GET", path, query, await self._login.headers(), timeout=timeout
            ) as answer:
                self._observe("WATCH", answer.status)
                if answer.status >= BAD_REQUESTS:
                    raise _refusal(answer.status, _decode(await answer.read()))
                async for chunk in answer.content.iter_any():
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        yield line
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
    ) -> tuple[int, bytes]:
        for attempt in (1, 2):
            who = await self._login.headers()
            async with self._request(method, path, query, {**who, **headers}, body=body) as answer:
                text = await answer.read()
                if answer.status != UNAUTHORIZED or attempt == 2:  # noqa: PLR2004 - the last attempt
                    return answer.status, text
            # Credentials that a plugin or a file gave may have been replaced since they were read.
            self._login = await find_login()
        raise AssertionError

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


def _selection(labels: str) -> dict[str, str]:
    return {"labelSelector": labels} if labels else {}


def _decode(text: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise KubeAway(f"the API server's answer is not JSON: {text[:200]!r}") from error


def _refusal(status: int, answer: Mapping[str, Any]) -> Exception:
    reason, message = str(answer.get("reason") or ""), str(answer.get("message") or "")
    if status == TOO_MANY or status >= SERVER_ERRORS:
        return KubeAway(f"the API server answered {status} {reason}: {message}")
    return KubeRefused(status, reason, message)
