"""A warm copy of all objects of a kind: listed once, then watched; what pods, nodes and RayClusters are read from.

While the API server is away the last objects stay. After an error the watch goes on where it ended; where that is no
longer possible, all is listed anew, and what has gone meanwhile goes here too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from plinth.cluster.kube.client import Kind, KubeAway, KubeClient, KubeRefused

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0

ObjectName = tuple[str, str]
"""Namespace and name; the namespace is empty for a cluster-wide kind."""

log = logging.getLogger(__name__)


class Reflector:
    """Objects of one kind, filtered by the API server itself. `on_change` is called after every change of `items`."""

    def __init__(
        self,
        client: KubeClient,
        kind: Kind,
        *,
        namespace: str = "",
        labels: str = "",
        on_change: Callable[[], None],
    ) -> None:
        self._client = client
        self._kind = kind
        self._namespace = namespace
        self._labels = labels
        self._on_change = on_change
        self._items: dict[ObjectName, dict[str, Any]] = {}
        self.newest: ObjectName | None = None
        """What changed last; None after a listing, when everything may have."""
        self._synced = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def items(self) -> Mapping[ObjectName, dict[str, Any]]:
        """The objects as last seen; not to be changed."""
        return MappingProxyType(self._items)

    @property
    def synced(self) -> bool:
        """Whether all objects have been seen once."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Wait until all objects have been seen once."""
        await self._synced.wait()

    def start(self) -> None:
        """Begin to follow."""
        self._task = asyncio.create_task(self._follow(), name=f"reflector of {self._kind.plural}")

    async def close(self) -> None:
        """End following."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _follow(self) -> None:
        version = ""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                if not version:
                    version = await self._list()
                async for seen in self._watch(version):
                    version = seen
                    pause = FIRST_PAUSE_SECONDS
            except KubeAway as error:
                log.info("%s are not followed just now, trying again: %s", self._kind.plural, error)
            except KubeRefused as refusal:
                # 410: that version is forgotten. Whatever else it is (no such kind yet, no permission), begin anew.
                version = ""
                log.info("%s are listed anew: %s", self._kind.plural, refusal)
            # Spread: many watches are cut at the same moment.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _list(self) -> str:
        objects, version = await self._client.list(self._kind, namespace=self._namespace, labels=self._labels)
        self._items = {_name_of(each): each for each in objects}
        self.newest = None
        self._synced.set()
        self._on_change()
        return version

    async def _watch(self, version: str) -> Any:
        """Take in changes; yields the version reached after each."""
        async for kind, item in self._client.watch(
            self._kind, resource_version=version, namespace=self._namespace, labels=self._labels
        ):
            if kind != "BOOKMARK":
                self._take(kind, item)
            yield item["metadata"]["resourceVersion"]

    def _take(self, kind: str, item: dict[str, Any]) -> None:
        self.newest = _name_of(item)
        if kind == "DELETED":
            self._items.pop(self.newest, None)
        else:
            self._items[self.newest] = item
        self._on_change()


def _name_of(item: Mapping[str, Any]) -> ObjectName:
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
