"""Routes and load reports of real gateways by way of a real API server, taken away and given back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fleet import make_model
from kube.access import Kubernetes
from kube.control_plane import ControlPlane

from plinth.cluster.kube.client import ENDPOINT_SLICE, POD, KubeClient
from plinth.desired.endpoint_slices import SELECTOR, Owner, owner_reference
from plinth.domain.traffic import ReplicaRoute, ReplicaState, RouteTable
from plinth.tests.cluster.kube.gateway_rig import GatewayRig, gateway_rig
from plinth.tests.controllers import gateway_contract
from plinth.tests.gateway.harness import Upstream, eventually, stream

pytestmark = pytest.mark.kube

NAME = "chat"
REPLICA_SLICE = "plinth.chat.cafe.0"


def machine_address() -> str:
    """An address that an EndpointSlice may hold: loopback is refused. Nothing is sent to find it out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address beside loopback")
        address: str = probe.getsockname()[0]
    return address


@asynccontextmanager
async def upstream_at(host: str, **behaviour: Any) -> AsyncIterator[Upstream]:
    upstream = Upstream(stream(**behaviour) if behaviour else None)
    await upstream.start(host=host)
    try:
        yield upstream
    finally:
        await upstream.stop()


class Place:
    """A namespace with a model on a real API server, and gateways that live by it."""

    def __init__(self, kubernetes: Kubernetes, namespace: str, folder: Path) -> None:
        self.kubernetes = kubernetes
        self.namespace = namespace
        self.folder = folder
        self.model = f"{namespace}/{NAME}"
        self.slot = gateway_contract.slot_of(self.model)
        self.host = machine_address()
        manifest = make_model()
        manifest["metadata"] |= {"name": NAME, "namespace": namespace}
        kubernetes.apply(manifest)
        self.uid = kubernetes.get("modeldeployment", NAME, namespace)["metadata"]["uid"]

    def find_owner(self, model: str) -> Owner | None:
        return owner_reference(NAME, self.uid) if model == self.model else None

    @asynccontextmanager
    async def rig(self, *, gateways: int = 2) -> AsyncIterator[GatewayRig]:
        async with gateway_rig(
            KubeClient.connect, self.folder, self.find_owner, namespace=self.namespace, gateways=gateways
        ) as rig:
            yield rig

    def table(self, upstream: Upstream, state: ReplicaState = ReplicaState.READY) -> RouteTable:
        return gateway_contract.make_table(self.replica(upstream.port, state), model=self.model)

    def replica(self, port: int, state: ReplicaState = ReplicaState.READY) -> ReplicaRoute:
        return gateway_contract.make_replica(port, state, host=self.host, model=self.model)

    async def settled(self, rig: GatewayRig, table: RouteTable) -> int:
        """Send a table and wait until every gateway has it."""
        assert rig.leader is not None
        version = rig.leader.send(table)
        await rig.known(lambda report: report.table_version == version)
        return version

    def slices(self) -> dict[str, dict[str, Any]]:
        found = self.kubernetes.list("endpointslices", "-n", self.namespace, "-l", SELECTOR)
        return {each["metadata"]["name"]: each for each in found}


@pytest.fixture
def place(
    control_plane: Kubernetes, kube_namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Place:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    return Place(control_plane, kube_namespace, tmp_path)


@pytest.fixture
def own_place(own_control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("KUBECONFIG", str(own_control_plane.kubeconfig))
    own_control_plane.kubectl("create", "namespace", "routes")
    return Place(own_control_plane, "routes", tmp_path)


async def until(is_so: Callable[[], bool], *, seconds: float = 10.0) -> None:
    """For what kubectl tells."""
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(is_so):
            await asyncio.sleep(0.1)


async def test_two_gateways_keep_the_contract_as_one(place: Place) -> None:
    async with upstream_at(place.host) as upstream, place.rig() as rig:
        assert rig.leader is not None
        await gateway_contract.holds(
            rig.leader,
            lambda: asyncio.sleep(0.05),
            replica_port=upstream.port,
            host=place.host,
            model=place.model,
        )


async def test_an_unchanged_table_is_not_written_again_whoever_leads(place: Place) -> None:
    async with upstream_at(place.host) as upstream, place.rig(gateways=1) as rig:
        await place.settled(rig, place.table(upstream))
        before = place.slices()
        await rig.step_down()
        await rig.lead()
        await place.settled(rig, place.table(upstream))
        await asyncio.sleep(0.5)
        after = place.slices()
        assert after.keys() == before.keys() == {"plinth.chat", REPLICA_SLICE, "plinth.table"}
        changed = [
            name
            for name, each in after.items()
            if each["metadata"]["resourceVersion"] != before[name]["metadata"]["resourceVersion"]
        ]
        assert changed == ["plinth.table"]


async def test_what_people_do_to_slices_is_undone(place: Place) -> None:
    async with upstream_at(place.host) as upstream, place.rig(gateways=1) as rig:
        await place.settled(rig, place.table(upstream))
        slice_ = f"endpointslice/{REPLICA_SLICE}"
        here = ("-n", place.namespace)
        kubectl = place.kubernetes.kubectl
        for harm in (
            ("patch", slice_, *here, "--type=merge", "-p", '{"ports": [{"name": "http", "port": 9}]}'),
            ("label", slice_, *here, "plinth.dev/routes-"),
            ("annotate", slice_, *here, "plinth.dev/replica-"),
            ("delete", slice_, *here),
        ):
            before = place.slices()[REPLICA_SLICE]
            await asyncio.to_thread(kubectl, *harm)
            await until(partial(_is_restored, place, before))
        assert (await rig.pods[0].ask()).status == 200


def _is_restored(place: Place, before: dict[str, Any]) -> bool:
    found = place.slices().get(REPLICA_SLICE)
    parts = ("labels", "annotations", "ownerReferences")
    return (
        found is not None
        and all(found["metadata"].get(part) == before["metadata"].get(part) for part in parts)
        and all(found[part] == before[part] for part in ("endpoints", "ports", "addressType"))
    )


async def test_a_replica_that_kubernetes_refuses_holds_up_nobody(place: Place) -> None:
    async with upstream_at(place.host) as upstream, place.rig(gateways=1) as rig:
        slot = place.slot.replace("cafe", "beef")
        loopback = gateway_contract.make_replica(1, host="127.0.0.1", model=place.model)
        refused = ReplicaRoute(**(vars(loopback) | {"slot": slot}))
        table = gateway_contract.make_table(place.replica(upstream.port), refused, model=place.model)
        await place.settled(rig, table)
        assert (await rig.pods[0].ask()).status == 200


async def test_gateways_serve_on_while_the_api_server_is_away_even_when_restarted(own_place: Place) -> None:
    plane = own_place.kubernetes
    assert isinstance(plane, ControlPlane)
    async with upstream_at(own_place.host, count=300, every=0.02) as upstream, own_place.rig() as rig:
        assert rig.leader is not None
        version = await own_place.settled(rig, own_place.table(upstream))
        running = [asyncio.ensure_future(pod.stream()) for pod in rig.pods]
        await eventually(lambda: len(upstream.seen) == 2)
        await asyncio.to_thread(plane.api_server.kill)
        await rig.pods[0].stop_agent()
        await rig.pods[0].start_agent()
        draining = rig.leader.send(own_place.table(upstream, ReplicaState.DRAINING))
        report = await rig.known(lambda report: report.models[own_place.model].in_flight == 2)
        assert report.table_version == version
        assert report.replicas[own_place.slot].state is ReplicaState.READY
        assert all(answer.body.endswith(b"[DONE]\n\n") for answer in await asyncio.gather(*running))
        await rig.pods[1].kill_gateway()
        await rig.pods[1].start_gateway()
        await rig.pods[1].wait_ready()
        assert (await rig.pods[1].stream()).body.endswith(b"[DONE]\n\n")
        await asyncio.to_thread(plane.api_server.start)
        await asyncio.to_thread(plane.wait_ready)
        await rig.until(lambda report: report is not None and report.table_version == draining, seconds=30)


async def test_the_slices_of_a_deleted_model_go_with_it_though_nobody_leads(own_place: Place) -> None:
    plane = own_place.kubernetes
    assert isinstance(plane, ControlPlane)
    plane.start_controller_manager()
    async with upstream_at(own_place.host, count=400, every=0.02) as upstream, own_place.rig() as rig:
        await own_place.settled(rig, own_place.table(upstream))
        running = [asyncio.ensure_future(pod.stream()) for pod in rig.pods]
        await eventually(lambda: len(upstream.seen) == 2)
        await rig.step_down()
        await asyncio.to_thread(plane.kubectl, "delete", "mdl", NAME, "-n", own_place.namespace)
        await until(lambda: own_place.slices().keys() == {"plinth.table"}, seconds=30)
        async with asyncio.timeout(30):  # one that was still let in takes eight seconds
            while (await rig.pods[0].ask()).status != 404:
                await asyncio.sleep(0.05)
        assert all(answer.body.endswith(b"[DONE]\n\n") for answer in await asyncio.gather(*running))


async def test_what_the_fake_says_of_pods_and_slices_is_what_kubernetes_says(place: Place) -> None:
    """The unit tests' API server knows no schema; this is what they rely on."""
    async with upstream_at(place.host) as upstream, place.rig(gateways=1) as rig:
        await place.settled(rig, place.table(upstream))
        client = await KubeClient.connect()
        try:
            pods, _ = await client.list(POD, namespace=place.namespace)
            header = await client.get(ENDPOINT_SLICE, place.namespace, "plinth.chat")
        finally:
            await client.close()
        assert pods[0]["status"]["podIP"] == rig.pods[0].address
        assert header is not None
        assert (header.get("endpoints") or [], header.get("ports") or []) == ([], [])
        assert header["metadata"]["ownerReferences"] == [dict(owner_reference(NAME, place.uid))]
