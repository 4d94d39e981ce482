"""One replica of the operator: caches that are always warm, and the fleet cycle while it holds the Lease.

kopf's events fill the store, the census watches over it, and the probes tell kubelet. Leading is a task that the
election begins and cancels; whatever it writes goes through a client that asks the Lease first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import kopf

from plinth.cluster.kube.census import Census
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.errors import KubeAway, KubeRefused
from plinth.cluster.kube.key_reflector import KeyReflector
from plinth.cluster.kube.kinds import GPU_POOL, MODEL_DEPLOYMENT, QUOTA_POLICY, Kind
from plinth.cluster.kube.lease import Election, find_identity
from plinth.cluster.kube.store import KubernetesStore, key_of
from plinth.controllers.cycle import Pass
from plinth.controllers.ports import Ports, ResourceStore
from plinth.runtime.kopf_feed import KopfFeed
from plinth.runtime.operator_metrics import OperatorMetrics
from plinth.runtime.operator_options import LEASE_NAME, OperatorOptions
from plinth.runtime.operator_term import Term
from plinth.runtime.probe_server import ProbeServer

KINDS = (GPU_POOL, MODEL_DEPLOYMENT, QUOTA_POLICY)
RETRY_SECONDS = 1.0

log = logging.getLogger("plinth.operator")


@dataclass(frozen=True, kw_only=True)
class Replica:
    """What adapters are made of: the parts that live as long as the process."""

    options: OperatorOptions
    client: KubeClient
    election: Election
    """The fence for all that only a leader may do."""
    store: KubernetesStore
    wake: Callable[[], None]
    """Makes the cycle look soon, if this replica leads."""
    latest: Callable[[], Pass | None]
    """The last pass, if this replica leads."""


class Adapters(Protocol):
    """All of the cycle's outside but the resources, and admission."""

    async def start(self) -> None:
        """Begin to follow what every replica follows, leading or not."""

    async def close(self) -> None:
        """Let go of everything."""

    def open_ports(self, store: ResourceStore) -> AbstractAsyncContextManager[Ports]:
        """The cycle's ports, for one term of leadership."""

    def register(self, registry: kopf.OperatorRegistry) -> None:
        """Add kopf handlers of admission."""

    @property
    def webhook_server(self) -> Any:
        """What serves admission, for kopf; None for no admission."""


class OperatorProcess:
    """Put together once; `run` runs it."""

    def __init__(
        self,
        options: OperatorOptions,
        client: KubeClient,
        lease_client: KubeClient,
        metrics: OperatorMetrics,
        *,
        make_adapters: Callable[[Replica], Adapters],
        take_signals_back: Callable[[], None] = lambda: None,
    ) -> None:
        """`lease_client` is the election's own; see KopfFeed for the signals."""
        self._options = options
        self._client = client
        self._metrics = metrics
        self._term: Term | None = None
        self._identity = find_identity()
        self.store = KubernetesStore()
        self._keys = KeyReflector(client, options.keys_namespace, on_change=self._wake)
        self.election = Election(
            lease_client, namespace=options.namespace, name=LEASE_NAME, identity=self._identity
        )
        self._adapters = make_adapters(
            Replica(
                options=options,
                client=client,
                election=self.election,
                store=self.store,
                wake=self._wake,
                latest=lambda: self._term.latest if self._term else None,
            )
        )
        self._feed = KopfFeed(
            KINDS,
            self._take,
            register=self._adapters.register,
            webhook_server=self._adapters.webhook_server,
            take_signals_back=take_signals_back,
        )
        self._census = Census(client, self.store, KINDS, on_change=self._wake, on_missing=self._feed.restart)
        self.probes = ProbeServer(health=self._health, readiness=self._readiness, metrics=metrics.page)
        metrics.read_from(
            leads=lambda: self.election.leads,
            status_queue=lambda: self._term.status_queue if self._term else 0,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Run until stopped. Raises OSError when a port is taken, and what ends one of the parts."""
        await self.probes.start(self._options.host, self._options.metrics_port)
        await self._adapters.start()
        self._keys.start()
        leading = asyncio.create_task(self._lead())
        others = {asyncio.create_task(part) for part in (self._follow(), self._census.run(), _wait(stop))}
        try:
            done, _ = await asyncio.wait({leading, *others}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Leading ends first: what is begun is finished, and the Lease given back, while all else still works.
            for tasks in ({leading}, others):
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            await self._keys.close()
            await self._adapters.close()
            await self.probes.close()
        for task in done:
            task.result()

    async def _follow(self) -> None:
        """Feed the store, once there are our kinds."""
        for kind in KINDS:
            while not await self._is_served(kind):
                await asyncio.sleep(RETRY_SECONDS)
        await self._feed.run()

    async def _is_served(self, kind: Kind) -> bool:
        try:
            await self._client.list(kind, metadata_only=True)
        except (KubeAway, KubeRefused) as error:
            log.warning("%s cannot be read yet: %s", kind.plural, error)
            return False
        return True

    async def _lead(self) -> None:
        await self._census.wait_synced()
        await self.election.run(self._run_term)

    async def _run_term(self) -> None:
        fenced = self._client.fenced(self.election)
        self._term = Term(
            fenced, self.store, self._metrics, identity=self._identity, keys=lambda: self._keys.keys
        )
        try:
            await self._term.run(self._adapters.open_ports)
        finally:
            self._term = None

    def _take(self, change: str | None, item: Mapping[str, Any]) -> None:
        """What kopf saw."""
        metadata = item["metadata"]
        if change == "DELETED":
            changed = self.store.remove(key_of(item["kind"], metadata), metadata["uid"])
        else:
            changed = self.store.put(item)
        if change is None and self._census.synced:
            self._census.hint()  # listed anew: the watch was interrupted
        if changed:
            self._wake()

    def _wake(self) -> None:
        if self._term is not None:
            self._term.wake()

    def _health(self) -> str:
        return "" if self._feed.alive else "kopf has ended and does not begin again"

    def _readiness(self) -> str:
        return "" if self._census.synced else "the resources have not all been read yet"


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()
