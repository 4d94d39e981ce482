"""The fleet that admission judges an edit by: in every replica of the operator, whether it leads or not.

Where this replica leads, what the last pass saw; elsewhere what Kubernetes and Ray say, looked at now and then. The
resources are always the newest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from plinth.api.v1alpha1 import ModelDeployment
from plinth.cluster.capacity import CapacityAway
from plinth.cluster.kube.store import KubernetesStore, Stored
from plinth.controllers.cycle import Pass
from plinth.controllers.gather import key_of
from plinth.controllers.ports import Capacity, ModelReader
from plinth.domain.fleet import FleetSnapshot, LoadWindow, Model, Node

LOOK_SECONDS = 30.0
RETRY_SECONDS = 2.0


class AdmissionFleet:
    """`view` gives the fleet at once, `run` keeps an eye on the nodes."""

    def __init__(
        self,
        *,
        store: KubernetesStore,
        capacity: Capacity,
        models: ModelReader,
        latest: Callable[[], Pass | None],
    ) -> None:
        self._store = store
        self._capacity = capacity
        self._models = models
        self._latest = latest
        self._nodes: tuple[Node, ...] = ()

    def view(self) -> FleetSnapshot:
        """The fleet as known now."""
        latest, state = self._latest(), self._store.read()
        base = (
            latest.snapshot if latest else FleetSnapshot(pools=(), models=(), nodes=(), slots=(), report=None)
        )
        known = {model.key: model for model in base.models}
        return replace(
            base,
            pools=tuple(each.resource for each in state.pools),
            models=tuple(self._model(each, known.get(key_of(each.resource))) for each in state.models),
            nodes=base.nodes if latest else self._nodes,
        )

    async def run(self) -> None:
        """Look at the nodes now and then, while another replica does so all the time."""
        while True:
            pause = LOOK_SECONDS
            if self._latest() is None:
                try:
                    seen = await self._capacity.observe()
                    self._nodes = (*(node for ray in seen.rays for node in ray.nodes), *seen.potential)
                except CapacityAway:
                    pause = RETRY_SECONDS
            await asyncio.sleep(pause)

    def _model(self, stored: Stored[ModelDeployment], known: Model | None) -> Model:
        resource = stored.resource
        if known is not None and known.resource.metadata.generation == resource.metadata.generation:
            return known
        return Model(
            key=key_of(resource),
            resource=resource,
            first_seen=stored.first_seen,
            artifact=self._models.read(resource),
            answered_revision=resource.status.answered_revision,
            window=LoadWindow(),
            failure=None,
            invalid_edit=stored.invalid_edit,
        )
