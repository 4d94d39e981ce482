"""Writes statuses while this replica leads: only what differs, the newest of each object, a few at a time.

A status is written by server-side apply, so what is ours is taken back from whoever changed it and what others added
stays. Whether it differs is judged by what the API server has, which a watch and our own writes' answers tell; so
nothing is written again after a restart, nor while nothing changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plinth.api.v1alpha1 import ResourceKey
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.errors import KubeAway, KubeRefused
from plinth.cluster.kube.kinds import GPU_POOL, MODEL_DEPLOYMENT, QUOTA_POLICY
from plinth.cluster.kube.store import AnyStatus, KubernetesStore, ObservedStatus

WRITES_AT_ONCE = 16
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0
NOT_FOUND, CONFLICT = 404, 409
KINDS = {each.kind: each for each in (GPU_POOL, MODEL_DEPLOYMENT, QUOTA_POLICY)}

log = logging.getLogger("plinth.status")


@dataclass
class _Wanted:
    """What an object's status should be."""

    status: AnyStatus
    body: dict[str, Any]
    settled: int | None = None
    """The version that our write of it led to: as near as the API server lets us come."""


class StatusWriter:
    """Statuses of one term of leadership. `write` takes them, `run` sends them."""

    def __init__(self, client: KubeClient, store: KubernetesStore) -> None:
        self._client = client
        self._store = store
        self._wanted: dict[ResourceKey, _Wanted] = {}
        self._waiting: dict[ResourceKey, None] = {}
        """Whose status is to be sent, the longest waiting first."""
        self._under_way: set[ResourceKey] = set()
        self._more = asyncio.Event()

    @property
    def queue(self) -> int:
        """How many objects' statuses are not at the API server yet."""
        return len(self._waiting) + len(self._under_way)

    def wanted(self, key: ResourceKey) -> AnyStatus | None:
        """The status last given for this object, written or not; None before the first one."""
        found = self._wanted.get(key)
        return found.status if found else None

    def write(self, statuses: Mapping[ResourceKey, AnyStatus]) -> int:
        """Make these the statuses of all objects; returns how many differ from those given before."""
        changed = [key for key, status in statuses.items() if self.wanted(key) != status]
        for key in changed:
            body = statuses[key].model_dump(mode="json", by_alias=True, exclude_none=True)
            self._wanted[key] = _Wanted(statuses[key], body)
            self.look(key)
        for gone in self._wanted.keys() - statuses.keys():
            del self._wanted[gone]
        return len(changed)

    def look(self, key: ResourceKey) -> None:
        """See to it that the API server has the status that this object should have."""
        if key not in self._under_way and self._differs(key):
            self._waiting[key] = None
            self._more.set()

    async def run(self) -> None:
        """Send what waits, until cancelled. Raises NotLeaderError."""
        async with asyncio.TaskGroup() as workers:
            for number in range(WRITES_AT_ONCE):
                workers.create_task(self._work(), name=f"status writer {number}")

    async def _work(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            while not self._waiting:
                self._more.clear()
                await self._more.wait()
            key = next(iter(self._waiting))
            del self._waiting[key]
            self._under_way.add(key)
            try:
                await self._send(key)
                pause = FIRST_PAUSE_SECONDS
            except KubeAway as error:
                log.info("the status of %s is not written yet: %s", key, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            finally:
                self._under_way.discard(key)
            self.look(key)

    def _differs(self, key: ResourceKey) -> bool:
        wanted, observed = self._wanted.get(key), self._store.observed(key)
        if wanted is None or observed is None or observed.version == wanted.settled:
            return False
        return not says(observed.body, wanted.body)

    async def _send(self, key: ResourceKey) -> None:
        wanted, observed = self._wanted.get(key), self._store.observed(key)
        if wanted is None or observed is None:
            return
        try:
            answer = await self._client.apply(
                KINDS[key.kind], _manifest(key, wanted, observed), subresource="status"
            )
        except KubeRefused as refusal:
            # Gone, or another of the same name: the watch will tell.
            if refusal.status not in {NOT_FOUND, CONFLICT}:
                log.error("the status of %s is refused: %s", key, refusal)  # noqa: TRY400 - no fault of this code's
            wanted.settled = observed.version
            return
        wanted.settled = int(answer["metadata"]["resourceVersion"])
        self._store.take_answer(answer)


def _manifest(key: ResourceKey, wanted: _Wanted, observed: ObservedStatus) -> dict[str, Any]:
    metadata = {"name": key.name, "uid": observed.uid}
    if key.namespace:
        metadata["namespace"] = key.namespace
    return {"metadata": metadata, "status": wanted.body}


def says(observed: Any, wanted: Any) -> bool:
    """Whether what is observed holds all that is wanted; what others added to it does not matter."""
    if isinstance(wanted, dict):
        return isinstance(observed, dict) and all(
            name in observed and says(observed[name], value) for name, value in wanted.items()
        )
    if (
        isinstance(wanted, list)
        and wanted
        and all(isinstance(each, dict) and "type" in each for each in wanted)
    ):
        # Conditions: a map by type, as the CRD says.
        if not isinstance(observed, list):
            return False
        by_type = {each.get("type"): each for each in observed if isinstance(each, dict)}
        return all(says(by_type.get(each["type"]), each) for each in wanted)
    return bool(observed == wanted)
