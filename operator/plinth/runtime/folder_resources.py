"""The watched folder behind the cycle's `ResourceStore` port."""

from __future__ import annotations

from plinth.api.v1alpha1 import GPUPoolStatus, ModelDeploymentStatus, ResourceKey
from plinth.cluster.folder import FolderState, FolderStore
from plinth.controllers.gather import key_of
from plinth.controllers.ports import DesiredModel, Resources, Statuses


class FolderResources:
    """Reads the folder anew on every pass; unchanged files are not read again."""

    def __init__(self, store: FolderStore) -> None:
        self._store = store
        self._state: FolderState | None = None

    @property
    def errors(self) -> tuple[str, ...]:
        """What is wrong in the folder now, a line each: file, line, field, rule and remedy."""
        return tuple(str(issue) for issue in self._state.errors) if self._state else ()

    def read(self, now: float) -> Resources:
        """See ResourceStore.read."""
        self._state = self._store.read(now)
        return Resources(
            pools=tuple(each.resource for each in self._state.pools),
            models=tuple(
                DesiredModel(
                    resource=each.resource, first_seen=each.first_seen, invalid_edit=each.invalid_edit
                )
                for each in self._state.models
            ),
        )

    def write(self, statuses: Statuses) -> int:
        """See ResourceStore.write."""
        if self._state is None:
            return 0
        by_key: dict[ResourceKey, GPUPoolStatus | ModelDeploymentStatus] = {}
        for pool in self._state.pools:
            if pool.resource.metadata.name in statuses.pools:
                by_key[pool.resource.key] = statuses.pools[pool.resource.metadata.name]
        for model in self._state.models:
            if key_of(model.resource) in statuses.models:
                by_key[model.resource.key] = statuses.models[key_of(model.resource)]
        return self._store.write(by_key)
