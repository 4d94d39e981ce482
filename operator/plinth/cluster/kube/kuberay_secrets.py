"""The Secrets that a dedicated pool's pods mount, copied from the release namespace into the pool's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from plinth.api.v1alpha1 import GPUPool
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.kinds import SECRET
from plinth.desired import ray_names
from plinth.desired.ray_cluster import owner_reference
from plinth.desired.ray_pods import RaySettings

LOOK_AGAIN_SECONDS = 60.0
"""Secrets are not watched: no more of them are read than are needed."""


@dataclass
class SecretCopies:
    """Keeps the copies true. A copy goes with the last pool that it was made for."""

    client: KubeClient
    settings: RaySettings
    clock: Callable[[], float]
    _looked_at: dict[tuple[str, tuple[str, ...]], float] = field(default_factory=dict)

    async def ensure(self, namespace: str, pools: Iterable[GPUPool]) -> bool:
        """Copy what the pods there need, for these pools; whether anything was written.

        Raises KubeAway and KubeRefused.
        """
        if namespace == self.settings.namespace:
            return False
        owners = sorted(pools, key=lambda pool: pool.metadata.name)
        turn = (namespace, tuple(pool.metadata.name for pool in owners))
        if self.clock() - self._looked_at.get(turn, float("-inf")) < LOOK_AGAIN_SECONDS:
            return False
        wrote = [await self._copy(name, namespace, owners) for name in self._names()]
        self._looked_at[turn] = self.clock()
        return any(wrote)

    def _names(self) -> list[str]:
        return [name for name in (ray_names.ENGINE_SECRET, self.settings.redis_password_secret) if name]

    async def _copy(self, name: str, namespace: str, owners: list[GPUPool]) -> bool:
        source = await self.client.get(SECRET, self.settings.namespace, name)
        if source is None:
            return False
        copy = await self.client.get(SECRET, namespace, name)
        references = [owner_reference(pool) for pool in owners]
        told = (copy or {}).get("metadata", {}).get("ownerReferences", [])
        if copy and copy.get("data") == source.get("data") and _same_owners(told, references):
            return False
        metadata = {"name": name, "namespace": namespace, "ownerReferences": references}
        await self.client.apply(
            SECRET,
            {"metadata": metadata, "type": source.get("type", "Opaque"), "data": source.get("data", {})},
        )
        return True


def _same_owners(told: list[dict[str, str]], wanted: list[dict[str, str]]) -> bool:
    return {each["uid"] for each in told} >= {each["uid"] for each in wanted}
