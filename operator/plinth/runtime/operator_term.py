"""One term of leadership: the fleet cycle, and beside it what carries its words to the API server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from plinth.api.v1alpha1 import ResourceKey
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.drain_finalizer import DrainFinalizer
from plinth.cluster.kube.errors import NotLeaderError
from plinth.cluster.kube.events import EventWriter
from plinth.cluster.kube.status_writer import StatusWriter
from plinth.cluster.kube.store import KubernetesStore
from plinth.controllers.cycle import FleetCycle, Pass
from plinth.controllers.ports import Ports, ResourceStore
from plinth.desired.story import notes_between
from plinth.domain.keys import StoredKey
from plinth.runtime.kube_resources import KubeResources
from plinth.runtime.operator_metrics import OperatorMetrics

OpenPorts = Callable[[ResourceStore], AbstractAsyncContextManager[Ports]]


class Term:
    """Made when this replica comes to lead; forgotten, with all that the cycle remembers, when it leads no longer."""

    def __init__(
        self,
        client: KubeClient,
        store: KubernetesStore,
        metrics: OperatorMetrics,
        *,
        identity: str,
        keys: Callable[[], Sequence[StoredKey]],
    ) -> None:
        """`client` is fenced; `keys` gives all API keys as they are now."""
        self._store = store
        self._keys = keys
        self._metrics = metrics
        self._writer = StatusWriter(client, store)
        self._events = EventWriter(client, identity=identity, uid_of=self._uid_of, clock=time.time)
        self._finalizer = DrainFinalizer(client, store)
        self._cycle: FleetCycle | None = None
        self._latest: Pass | None = None
        self._passed = asyncio.Event()

    @property
    def status_queue(self) -> int:
        """How many statuses are not at the API server yet."""
        return self._writer.queue

    @property
    def latest(self) -> Pass | None:
        """The last pass that ended well."""
        return self._latest

    def wake(self) -> None:
        """Something may have changed."""
        if self._cycle is not None:
            self._cycle.wake()

    def _uid_of(self, key: ResourceKey) -> str | None:
        observed = self._store.observed(key)
        return observed.uid if observed else None

    async def run(self, open_ports: OpenPorts) -> None:
        """Lead until cancelled. Raises NotLeaderError."""
        self._store.on_status = self._writer.look
        try:
            async with open_ports(KubeResources(self._store, self._writer, self._keys)) as ports:
                self._cycle = FleetCycle(
                    ports=ports,
                    clock=time.time,
                    on_pass=self._take_pass,
                    on_failure=self._metrics.take_failure,
                )
                await self._run_parts(self._cycle)
        finally:
            self._store.on_status = None
            self._metrics.forget_fleet()

    async def _run_parts(self, cycle: FleetCycle) -> None:
        lost = None
        try:
            async with asyncio.TaskGroup() as parts:
                for part in (
                    self._writer.run(),
                    self._events.run(),
                    self._settle_finalizers(cycle),
                    cycle.run(),
                ):
                    parts.create_task(part)
        except* NotLeaderError as errors:
            lost = errors
        if lost is not None:
            raise NotLeaderError("a write came too late for the Lease") from lost

    def _take_pass(self, done: Pass) -> None:
        self._metrics.take_pass(done)
        self._events.tell(notes_between(self._latest.plan if self._latest else None, done.plan))
        self._latest = done
        self._passed.set()

    async def _settle_finalizers(self, cycle: FleetCycle) -> None:
        """After each pass: pools whose RayClusters have gone may go too."""
        while True:
            await self._passed.wait()
            self._passed.clear()
            occupied = {view.observation.pool for view in cycle.gatherer.rays.values()}
            pools = [each.resource for each in self._store.read().pools]
            await self._finalizer.settle(pools, occupied=occupied, now=time.time())
