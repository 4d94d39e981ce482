"""A Kubernetes API server in memory, below the real client: versions, merge patches, apply, finalizers and watches.

It knows no schema. Its answers can be delayed or refused by `before` and `after`, which stand for the network; the
same tests run on a real kube-apiserver in e2e.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.errors import Fence, KubeAway, KubeRefused
from plinth.cluster.kube.transport import to_its_end

Object = dict[str, Any]
Key = tuple[str, str, str]
"""Collection path without the namespace, namespace, name."""
PATH = re.compile(
    r"(?P<root>/api/v1|/apis/[^/]+/[^/]+)(/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[^/]+)"
    r"(/(?P<name>[^/]+))?(/(?P<subresource>[^/]+))?$"
)


async def no_delay(_method: str, _path: str) -> None:
    return None


class FakeApiServer:
    """See Transport: give it to a KubeClient."""

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self.writes: list[tuple[str, str]] = []
        """Method and path of each write that was not refused."""
        self.before: Callable[[str, str], Awaitable[None]] = no_delay
        """Awaited before a request takes effect: a delay, or KubeAway for one that never arrived."""
        self.after: Callable[[str, str], Awaitable[None]] = no_delay
        """Awaited before the answer is given: a delay, or KubeAway for an answer that was lost."""
        self.on_effect: Callable[[Object], None] = lambda _item: None
        """Called at the moment an object changes."""
        self._history: list[tuple[str, str, Object]] = []
        self._changed = asyncio.Event()
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)
        self.version = 0

    def client(self) -> KubeClient:
        return KubeClient(self)

    def put(self, collection: str, item: Object) -> Object:
        """Create or replace an object as some other client would."""
        metadata = item["metadata"]
        key = (collection, metadata.get("namespace", ""), metadata["name"])
        return self._store("MODIFIED" if key in self.objects else "ADDED", key, copy.deepcopy(item))

    def forget_history(self) -> None:
        """As after a compaction: watches from before are told that their version is gone."""
        self._history.clear()

    async def close(self) -> None:
        return None

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
    ) -> Object:
        if fence is not None:
            fence.check()

        async def exchange() -> Object:
            async with asyncio.timeout(seconds):
                await self.before(method, path)
                answer = copy.deepcopy(self._answer(method, path, query or {}, headers or {}, body))
                if method != "GET":
                    self.writes.append((method, path))
                await self.after(method, path)
                return answer

        try:
            return await (exchange() if fence is None else to_its_end(exchange()))
        except TimeoutError as error:
            raise KubeAway(f"no answer to {method} {path}") from error

    async def lines(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Object]:
        collection, namespace = self._split(path)[:2]
        seen, selector = int(query["resourceVersion"]), query.get("labelSelector", "")
        oldest = (
            int(self._history[0][2]["metadata"]["resourceVersion"]) if self._history else self.version + 1
        )
        if seen + 1 < oldest and seen != self.version:
            raise KubeRefused(410, "Expired", f"too old resource version: {seen}")
        while True:
            await self.before("WATCH", path)
            for kind, where, item in list(self._history):
                version = int(item["metadata"]["resourceVersion"])
                if (
                    version > seen
                    and where == collection
                    and _is_in(item, namespace)
                    and _is_selected(item, selector)
                ):
                    seen = version
                    yield {"type": kind, "object": copy.deepcopy(item)}
            self._changed.clear()
            await self._changed.wait()

    def _answer(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes | None
    ) -> Object:
        collection, namespace, name, subresource = self._split(path)
        given = msgspec.json.decode(body) if body else {}
        if method == "POST":
            return self._create(collection, namespace, given)
        if not name:
            return self._list(collection, namespace, query.get("labelSelector", ""))
        key = (collection, namespace, name)
        is_apply = "apply-patch" in headers.get("Content-Type", "")
        if key not in self.objects:
            if is_apply and not subresource:
                return self._create(collection, namespace, given)
            raise KubeRefused(404, "NotFound", f"{path} not found")
        item = self.objects[key]
        if method == "GET":
            return item
        if method == "DELETE":
            return self._delete(key, item, given)
        _check_preconditions(item, given)
        if method == "PUT":
            changed = copy.deepcopy(given)
        else:
            changed = _merge(item, {"status": given.get("status")} if subresource else given)
        return self._store("MODIFIED", key, changed)

    def _create(self, collection: str, namespace: str, item: Object) -> Object:
        name = item["metadata"].get("name") or f"{item['metadata']['generateName']}{next(self._uids)}"
        key = (collection, namespace, name)
        if key in self.objects:
            raise KubeRefused(409, "AlreadyExists", f"{key} exists")
        item["metadata"]["name"] = name
        return self._store("ADDED", key, item)

    def _list(self, collection: str, namespace: str, selector: str) -> Object:
        items = [
            item
            for (where, _, _), item in sorted(self.objects.items())
            if where == collection and _is_in(item, namespace) and _is_selected(item, selector)
        ]
        return {"items": items, "metadata": {"resourceVersion": str(self.version)}}

    def _delete(self, key: Key, item: Object, options: Object) -> Object:
        _check_preconditions(item, {"metadata": options.get("preconditions", {})})
        if item["metadata"].get("finalizers"):
            marked = _merge(item, {"metadata": {"deletionTimestamp": _now()}})
            return self._store("MODIFIED", key, marked)
        return self._store("DELETED", key, copy.deepcopy(item))

    def _store(self, change: str, key: Key, item: Object) -> Object:
        metadata = item["metadata"]
        before = self.objects.get(key)
        if before is not None and change == "MODIFIED" and _same(before, item):
            return before
        self.version = next(self._versions)
        metadata["resourceVersion"] = str(self.version)
        metadata.setdefault("uid", f"uid-{next(self._uids)}")
        metadata.setdefault("creationTimestamp", _now())
        generation = before["metadata"]["generation"] if before else 1
        is_new_spec = before is not None and before.get("spec") != item.get("spec")
        metadata["generation"] = generation + 1 if is_new_spec else generation
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            change = "DELETED"
        if change == "DELETED":
            self.objects.pop(key, None)
        else:
            self.objects[key] = item
        self._history.append((change, key[0], item))
        self.on_effect(item)
        self._changed.set()
        return item

    @staticmethod
    def _split(path: str) -> tuple[str, str, str, str]:
        found = PATH.match(path)
        assert found is not None, path
        collection = f"{found['root']}/{found['plural']}"
        return collection, found["namespace"] or "", found["name"] or "", found["subresource"] or ""


def _is_in(item: Object, namespace: str) -> bool:
    return not namespace or item["metadata"].get("namespace") == namespace


def _is_selected(item: Object, selector: str) -> bool:
    """By `name=value` and `name` (with any value), which is all that we ask by."""
    labels = item["metadata"].get("labels", {})
    terms = [term.partition("=") for term in selector.split(",") if term]
    return all(labels.get(name) == value if equals else name in labels for name, equals, value in terms)


def _check_preconditions(item: Object, given: Object) -> None:
    for field in ("resourceVersion", "uid"):
        wanted = given.get("metadata", {}).get(field)
        if wanted and wanted != item["metadata"][field]:
            raise KubeRefused(409, "Conflict", f"{field} is {item['metadata'][field]}, not {wanted}")


def _merge(item: Any, patch: Any) -> Any:
    if not isinstance(item, dict) or not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = copy.deepcopy(item)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value)
    return merged


def _same(before: Object, after: Object) -> bool:
    return _without_version(before) == _without_version(after)


def _without_version(item: Object) -> Object:
    return {**item, "metadata": {k: v for k, v in item["metadata"].items() if k != "resourceVersion"}}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
