"""The API server's resources behind the cycle's `ResourceStore` port, for one term of leadership.

No cycle plans QuotaPolicies; their statuses are made here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

from plinth.api.v1alpha1 import ConditionType, ModelDeployment, QuotaPolicy, Reason, ResourceKey
from plinth.cluster.kube.status_writer import StatusWriter
from plinth.cluster.kube.store import AnyStatus, KubernetesStore, R, Refused, Stored
from plinth.controllers.ports import DesiredModel, Resources, Statuses
from plinth.desired.policy_status import policy_status
from plinth.desired.statuses import date_conditions
from plinth.domain.fleet import ModelKey, Verdict
from plinth.domain.keys import StoredKey, count_by_policy


class KubeResources:
    """Reads what the store has; a status given once is read back at once, though it may still be on its way."""

    def __init__(
        self, store: KubernetesStore, writer: StatusWriter, keys: Callable[[], Sequence[StoredKey]]
    ) -> None:
        """`keys` gives all API keys as they are now."""
        self._store = store
        self._writer = writer
        self._keys = keys
        self._models: dict[ResourceKey, tuple[Stored[ModelDeployment], AnyStatus | None, DesiredModel]] = {}
        self._policies: dict[ResourceKey, tuple[Stored[QuotaPolicy], int, AnyStatus]] = {}
        """What each status was made of, and it."""
        self._refused: tuple[Refused, ...] = ()
        self._now = 0.0

    def read(self, now: float) -> Resources:
        """See ResourceStore.read."""
        state = self._store.read()
        self._refused, self._now = state.refused, now
        kept = self._models
        self._models = {}
        for each in state.models:
            key = each.resource.key
            known, status = kept.get(key), self._writer.wanted(key)
            if known is None or known[0] is not each or known[1] is not status:
                known = (each, status, _desired(each, status))
            self._models[key] = known
        return Resources(
            pools=tuple(
                _with_status(each.resource, self._writer.wanted(each.resource.key)) for each in state.pools
            ),
            models=tuple(desired for _, _, desired in self._models.values()),
            unreadable=frozenset(
                ModelKey(each.key.namespace, each.key.name)
                for each in state.refused
                if each.key.kind == "ModelDeployment"
            ),
        )

    def write(self, statuses: Statuses) -> int:
        """See ResourceStore.write. An object that could never be read gets a status that says why."""
        by_key: dict[ResourceKey, AnyStatus] = {
            ResourceKey("ModelDeployment", key.namespace, key.name): status
            for key, status in statuses.models.items()
        }
        by_key |= {ResourceKey("GPUPool", "", name): status for name, status in statuses.pools.items()}
        self._policies = {entry[0].resource.key: entry for entry in self._policy_statuses()}
        by_key |= {key: status for key, (_, _, status) in self._policies.items()}
        by_key |= {each.key: refused_status(each, self._now) for each in self._refused}
        return self._writer.write(by_key)

    def _policy_statuses(self) -> Iterator[tuple[Stored[QuotaPolicy], int, AnyStatus]]:
        """One that nothing has changed about is not made again."""
        keys = count_by_policy(self._keys(), self._now)
        for policy in self._store.read().policies:
            key = policy.resource.key
            count, before = keys[f"{key.namespace}/{key.name}"], self._policies.get(key)
            if before is not None and before[:2] == (policy, count):
                yield before
                continue
            resource = _with_status(policy.resource, self._writer.wanted(key))
            status = policy_status(resource, count, self._now, invalid_edit=policy.invalid_edit)
            yield policy, count, status


def refused_status(refused: Refused, now: float) -> AnyStatus:
    """The status of an object that breaks Plinth's rules though the API server took it."""
    verdicts = [
        Verdict(type=kind, status=False, reason=Reason.INVALID_SPEC, message=refused.message)
        for kind in (ConditionType.ACCEPTED, ConditionType.READY)
    ]
    generation = refused.metadata.generation
    conditions = date_conditions(verdicts, refused.status.conditions, generation, now)
    return refused.status.model_copy(
        update={
            "observed_generation": generation,
            "reason": Reason.INVALID_SPEC.value,
            "conditions": conditions,
        }
    )


def _desired(stored: Stored[ModelDeployment], status: AnyStatus | None) -> DesiredModel:
    return DesiredModel(
        resource=_with_status(stored.resource, status),
        first_seen=stored.first_seen,
        invalid_edit=stored.invalid_edit,
    )


def _with_status(resource: R, status: AnyStatus | None) -> R:
    return resource if status is None else cast("R", resource.model_copy(update={"status": status}))
