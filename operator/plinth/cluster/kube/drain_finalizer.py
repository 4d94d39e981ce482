"""Holds a GPUPool that is being deleted until its RayClusters are gone, so that its replicas end their requests first.

It never holds for ever: after a deadline the pool goes, and with it all that it owns.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from datetime import datetime

from plinth.api.v1alpha1 import GPUPool
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.errors import KubeAway, KubeRefused
from plinth.cluster.kube.kinds import GPU_POOL
from plinth.cluster.kube.store import KubernetesStore

FINALIZER = "plinth.dev/drain"
DEADLINE_SECONDS = 3900.0
"""A replica may take an hour to end its requests unless its model says otherwise, and its pod a few minutes more."""

log = logging.getLogger("plinth.drain")


class DrainFinalizer:
    """Puts the finalizer on pools and takes it off; `client` is fenced."""

    def __init__(self, client: KubeClient, store: KubernetesStore) -> None:
        self._client = client
        self._store = store

    async def settle(self, pools: Iterable[GPUPool], *, occupied: Collection[str], now: float) -> None:
        """Once a pass: `occupied` are the pools that still have a RayCluster. What fails is tried in the next pass."""
        for pool in pools:
            wanted = is_held(pool, is_occupied=pool.metadata.name in occupied, now=now)
            if wanted != (FINALIZER in finalizers_of(pool)):
                await self._write(pool, wanted=wanted)

    async def _write(self, pool: GPUPool, *, wanted: bool) -> None:
        observed = self._store.observed(pool.key)
        if observed is None:
            return
        others = [each for each in finalizers_of(pool) if each != FINALIZER]
        # A merge patch replaces the whole list, so only where nobody else has changed anything since.
        metadata = {
            "finalizers": [*others, FINALIZER] if wanted else others,
            "resourceVersion": str(observed.version),
        }
        try:
            answer = await self._client.patch(GPU_POOL, "", pool.metadata.name, {"metadata": metadata})
        except (KubeAway, KubeRefused) as error:
            log.info("the finalizer of %s stays as it is for now: %s", pool.key, error)
        else:
            self._store.take_answer(answer)


def is_held(pool: GPUPool, *, is_occupied: bool, now: float) -> bool:
    """Whether the pool should have the finalizer now."""
    if not pool.metadata.deletion_timestamp:
        return True
    asked = datetime.fromisoformat(pool.metadata.deletion_timestamp).timestamp()
    if is_occupied and now - asked >= DEADLINE_SECONDS:
        log.warning("%s goes with replicas that have not ended their requests in time", pool.key)
        return False
    # None can be added once the deletion has begun; one that is there already stays.
    return is_occupied and FINALIZER in finalizers_of(pool)


def finalizers_of(pool: GPUPool) -> list[str]:
    """The finalizers that the pool has."""
    return list((pool.metadata.model_extra or {}).get("finalizers") or [])
