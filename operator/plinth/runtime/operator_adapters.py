"""The cycle's outside in a cluster: KubeRay, EndpointSlices, replicas, model sources, Secrets; and admission."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import kopf

from plinth.api.v1alpha1 import GPUPool, ModelDeployment, ResourceKey
from plinth.cluster.inspector_rest import InspectorRest
from plinth.cluster.kube.certificate_rotation import WebhookCertificates
from plinth.cluster.kube.credentials import KubeCredentials
from plinth.cluster.kube.kuberay import KubeRayCapacity
from plinth.cluster.kube.model_reader import ClusterReadings
from plinth.cluster.kube.slice_gateway import SliceGateway
from plinth.cluster.model_reader import BackgroundModelReader
from plinth.cluster.replica_rest import ReplicaRest
from plinth.controllers.ports import Ports, ResourceStore
from plinth.controllers.what_if import WhatIfs
from plinth.desired.endpoint_slices import Owner, owner_reference
from plinth.desired.ray_names import INSPECTOR_PORT
from plinth.runtime.admission_certificates import keep_certificates
from plinth.runtime.admission_fleet import AdmissionFleet
from plinth.runtime.admission_handlers import register_admission
from plinth.runtime.admission_server import AdmissionServer
from plinth.runtime.operator_process import Replica
from plinth.runtime.plan_server import PlanServer

SERVICE = "plinth-operator"


class ClusterAdapters:
    """See Adapters. What watches, and what is read of models, is kept warm in every replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        options, client = replica.options, replica.client
        self._fenced = client.fenced(replica.election)
        self.webhook_server = AdmissionServer(host=options.host, port=options.webhook_port)
        self._capacity = KubeRayCapacity(
            client, fence=replica.election, settings=options.ray, pools=self._pools, wake=replica.wake
        )
        self._replicas = ReplicaRest(options.secret_file)
        self._credentials = KubeCredentials(client)
        self._readings = ClusterReadings(
            inspectors=InspectorRest(options.secret_file),
            inspector_of=self._inspector_of,
            read_token=self._credentials.read,
        )
        self._models = BackgroundModelReader(self._readings, wake=replica.wake, clock=time.time)
        self._fleet = AdmissionFleet(
            store=replica.store, capacity=self._capacity, models=self._models, latest=replica.latest
        )
        self.plans = PlanServer(
            WhatIfs(
                latest=replica.latest,
                readings=self._readings,
                clock=time.time,
                suppose=self._capacity.suppose,
            )
        )
        names = (f"{SERVICE}.{options.namespace}.svc", f"{SERVICE}.{options.namespace}.svc.cluster.local")
        self._certificates = WebhookCertificates(self._fenced, namespace=options.namespace, names=names)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """See Adapters."""
        await self.plans.start_on_port(self._replica.options.plan_port)
        self._capacity.start()
        self._tasks = {
            asyncio.create_task(self._fleet.run()),
            asyncio.create_task(
                keep_certificates(
                    self._certificates,
                    is_leader=lambda: self._replica.election.leads,
                    use=self.webhook_server.use,
                )
            ),
        }

    async def close(self) -> None:
        """See Adapters."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.plans.close()
        await self._capacity.close()
        await self._readings.close()
        await self._replicas.close()

    def register(self, registry: kopf.OperatorRegistry) -> None:
        """See Adapters."""
        register_admission(registry, self._fleet.view)

    @asynccontextmanager
    async def open_ports(self, store: ResourceStore) -> AsyncIterator[Ports]:
        """See Adapters."""
        options = self._replica.options
        gateway = SliceGateway(
            self._fenced,
            namespace=options.namespace,
            token_file=options.token_file,
            find_owner=self._find_owner,
            first_version=int(time.time() * 1000),
            wake=self._replica.wake,
            clock=time.time,
        )
        try:
            await gateway.start()
            yield Ports(
                store=store,
                capacity=self._capacity,
                replicas=self._replicas,
                gateway=gateway,
                models=self._models,
                credentials=self._credentials,
            )
        finally:
            await gateway.close()

    def _pools(self) -> tuple[GPUPool, ...]:
        return tuple(each.resource for each in self._replica.store.read().pools)

    def _find_owner(self, model: str) -> Owner | None:
        namespace, _, name = model.partition("/")
        observed = self._replica.store.observed(ResourceKey("ModelDeployment", namespace, name))
        return owner_reference(name, observed.uid) if observed else None

    def _inspector_of(self, model: ModelDeployment) -> tuple[str, int] | None:
        """In the pool that the model asks for, else in any that serves its namespace: files are the same in all."""
        for pool in self._pools():
            name, namespace = pool.metadata.name, pool.spec.namespace
            if model.spec.pool in {None, name} and namespace in {None, model.metadata.namespace}:
                address = self._capacity.head_address(name)
                if address is not None:
                    return address, INSPECTOR_PORT
        return None
