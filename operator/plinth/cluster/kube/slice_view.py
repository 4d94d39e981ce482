"""The EndpointSlices of routes as they are: what the watch told last, and before it tells, what we wrote ourselves."""

from __future__ import annotations

from collections.abc import Callable, KeysView, Mapping
from typing import Any

from plinth.cluster.kube.client import ENDPOINT_SLICE, KubeClient
from plinth.cluster.kube.reflector import ObjectName, Reflector
from plinth.desired.endpoint_slices import SELECTOR, Slice


class SliceView:
    """All slices with our label, in every namespace."""

    def __init__(self, client: KubeClient, on_change: Callable[[], None]) -> None:
        self._client = client
        self._reflector = Reflector(client, ENDPOINT_SLICE, labels=SELECTOR, on_change=on_change)
        self._echoes: dict[ObjectName, tuple[str, Mapping[str, Any] | None]] = {}
        """What was written (None: deleted) and the watch has not told of yet, with the version before it."""

    async def start(self) -> None:
        """Begin to follow; returns once all slices have been seen."""
        self._reflector.start()
        await self._reflector.wait_synced()

    async def close(self) -> None:
        """End following."""
        await self._reflector.close()

    @property
    def names(self) -> KeysView[ObjectName]:
        """Those that the watch told of."""
        return self._reflector.items.keys()

    def found(self, name: ObjectName) -> Slice | None:
        """One slice as it is."""
        version, body = self._echoes.get(name, (None, None))
        if version == self.version(name):
            return body
        self._echoes.pop(name, None)
        return self._reflector.items.get(name)

    def version(self, name: ObjectName) -> str:
        """The version that the watch told last; empty where it tells of no such slice."""
        told = self._reflector.items.get(name)
        return str(told["metadata"]["resourceVersion"]) if told else ""

    async def apply(self, name: ObjectName, body: Mapping[str, Any]) -> None:
        """Write a slice. Raises as KubeClient does."""
        before = self.version(name)
        await self._client.apply(ENDPOINT_SLICE, body)
        self._echoes[name] = (before, body)

    async def delete(self, name: ObjectName) -> None:
        """Delete a slice. Raises as KubeClient does."""
        before = self.version(name)
        await self._client.delete(ENDPOINT_SLICE, *name)
        self._echoes[name] = (before, None)
