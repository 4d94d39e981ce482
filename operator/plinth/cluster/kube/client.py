"""A thin client of the Kubernetes API: plain dictionaries in and out, every call bounded in time.

All adapters in this package go through it. Whatever goes wrong is translated below it and nowhere else: KubeAway where
nothing is known of the outcome, KubeRefused where the API server said no. A client made by `fenced` asks its fence
before every call that changes something.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec

from plinth.cluster.kube.errors import Fence, KubeAway, KubeRefused, NotLeaderError, error_of
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
from plinth.cluster.kube.login import find_login
from plinth.cluster.kube.transport import HttpTransport, Transport

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
PAGE_SIZE = 500
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
NOT_FOUND, INTERNAL_ERROR = 404, 500


class KubeClient:
    """One API server. Clients made by `fenced` share its connections."""

    def __init__(self, transport: Transport, fence: Fence | None = None) -> None:
        self._transport = transport
        self._fence = fence

    @classmethod
    async def connect(cls, *, observe: Callable[[str, int], None] | None = None) -> KubeClient:
        """With the pod's account, else KUBECONFIG; `observe` is told each answer's verb and status (0: none).

        Raises LoginError.
        """
        return cls(HttpTransport(await find_login(), observe or (lambda _verb, _status: None)))

    def fenced(self, fence: Fence) -> KubeClient:
        """The same client, whose mutating calls raise NotLeaderError when the fence says so."""
        return KubeClient(self._transport, fence)

    async def close(self) -> None:
        """Close the connections, those of all clients that share them."""
        await self._transport.close()

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
        """One object; None where there is none."""
        try:
            return await self._transport.call("GET", kind.path(namespace, name), seconds=READ_SECONDS)
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
            page = await self._transport.call(
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
        async for event in self._transport.lines(kind.path(namespace), query):
            if event["type"] == "ERROR":
                raise error_of(int(event["object"].get("code") or INTERNAL_ERROR), event["object"])
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
        """Create an object; a field that its kind does not have is refused, never dropped."""
        manifest = {"apiVersion": kind.api_version, "kind": kind.kind, **body}
        path = kind.path(body["metadata"].get("namespace", ""))
        return await self._write("POST", path, manifest, query={"fieldValidation": "Strict"})

    async def replace(self, kind: Kind, body: Mapping[str, Any]) -> dict[str, Any]:
        """Replace an object, if it is still at the body's resourceVersion (else KubeRefused, 409)."""
        metadata = body["metadata"]
        manifest = {"apiVersion": kind.api_version, "kind": kind.kind, **body}
        return await self._write("PUT", kind.path(metadata.get("namespace", ""), metadata["name"]), manifest)

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str = "", grace_seconds: int | None = None
    ) -> None:
        """Delete an object, with its dependants after it; one that is gone already is fine.

        With a uid only that object, not another that has taken its name (KubeRefused, 409). `grace_seconds` of 0
        strikes a pod off whose kubelet cannot say any more that it has ended.
        """
        options: dict[str, Any] = {"propagationPolicy": "Background"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
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
        return await self._transport.call(
            method,
            path,
            # The server gives up when we do: a write that we no longer wait for does not happen later.
            query={"fieldManager": FIELD_MANAGER, "timeout": f"{WRITE_SECONDS:.0f}s", **(query or {})},
            headers={"Content-Type": content_type},
            body=msgspec.json.encode(body),
            seconds=WRITE_SECONDS,
            fence=self._fence,
        )


def _selection(labels: str) -> dict[str, str]:
    return {"labelSelector": labels} if labels else {}
