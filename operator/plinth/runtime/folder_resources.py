"""The watched folder behind the cycle's `ResourceStore` port, and the statuses of what no cycle plans: QuotaPolicies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from plinth.api.v1alpha1 import QuotaPolicy, ResourceKey
from plinth.cluster.folder import FolderState, FolderStore
from plinth.cluster.status_db import AnyStatus
from plinth.controllers.gather import key_of
from plinth.controllers.ports import DesiredModel, Resources, Statuses
from plinth.desired.policy_status import policy_status
from plinth.domain.keys import StoredKey, count_by_policy


class FolderResources:
    """Reads the folder anew on every pass; unchanged files are not read again."""

    def __init__(self, store: FolderStore, keys: Callable[[], Sequence[StoredKey]]) -> None:
        """`keys` gives all API keys as they are now."""
        self._store = store
        self._keys = keys
        self._state: FolderState | None = None
        self._now = 0.0

    @property
    def errors(self) -> tuple[str, ...]:
        """What is wrong in the folder now, a line each: file, line, field, rule and remedy."""
        return tuple(str(issue) for issue in self._state.errors) if self._state else ()

    @property
    def policies(self) -> list[QuotaPolicy]:
        """The QuotaPolicies as of the last reading, each in its last good version."""
        return [each.resource for each in self._state.policies] if self._state else []

    def read(self, now: float) -> Resources:
        """See ResourceStore.read."""
        self._state, self._now = self._store.read(now), now
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
        by_key: dict[ResourceKey, AnyStatus] = {}
        for pool in self._state.pools:
            if pool.resource.metadata.name in statuses.pools:
                by_key[pool.resource.key] = statuses.pools[pool.resource.metadata.name]
        for model in self._state.models:
            if key_of(model.resource) in statuses.models:
                by_key[model.resource.key] = statuses.models[key_of(model.resource)]
        keys = count_by_policy(self._keys(), self._now)
        for policy in self._state.policies:
            key = policy.resource.key
            by_key[key] = policy_status(
                policy.resource,
                keys[f"{key.namespace}/{key.name}"],
                self._now,
                invalid_edit=policy.invalid_edit,
            )
        return self._store.write(by_key)
