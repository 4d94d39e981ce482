"""Several real gateways with their agents, heard and told as one, and what happens when any part of it is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from plinth.cluster.kube import report_reader
from plinth.cluster.kube.client import ENDPOINT_SLICE, KubeClient
from plinth.cluster.kube.errors import KubeAway
from plinth.desired.endpoint_slices import Owner, owner_reference
from plinth.domain.traffic import ReplicaState, RouteTable
from plinth.tests.cluster.kube.fake_api_server import FakeApiServer, no_delay
from plinth.tests.cluster.kube.gateway_rig import GatewayRig, gateway_rig
from plinth.tests.controllers import gateway_contract
from plinth.tests.gateway.harness import Upstream, eventually, replicas, stream

pytestmark = pytest.mark.process

RELEASE = "plinth-system"
MODEL = gateway_contract.MODEL
SLOT = gateway_contract.slot_of(MODEL)


def find_owner(model: str) -> Owner | None:
    return owner_reference(model.partition("/")[2], f"uid-of-{model}")


@asynccontextmanager
async def rig_on(server: FakeApiServer, folder: Path, *, gateways: int = 2) -> AsyncIterator[GatewayRig]:
    async def make_client() -> KubeClient:
        return server.client()

    async with gateway_rig(make_client, folder, find_owner, namespace=RELEASE, gateways=gateways) as rig:
        yield rig


def table_of(upstream: Upstream, state: ReplicaState = ReplicaState.READY) -> RouteTable:
    return gateway_contract.make_table(gateway_contract.make_replica(upstream.port, state))


async def away(_method: str, _path: str) -> None:
    raise KubeAway("no answer")


@pytest.fixture
def server() -> FakeApiServer:
    return FakeApiServer()


async def test_two_gateways_keep_the_contract_as_one(server: FakeApiServer, tmp_path: Path) -> None:
    async with replicas(None) as (upstream,), rig_on(server, tmp_path) as rig:
        assert rig.leader is not None
        await gateway_contract.holds(rig.leader, lambda: asyncio.sleep(0.05), replica_port=upstream.port)
        assert rig.wakes


async def test_requests_at_any_gateway_are_counted_together(server: FakeApiServer, tmp_path: Path) -> None:
    async with replicas(stream(100, every=0.02)) as (upstream,), rig_on(server, tmp_path) as rig:
        assert rig.leader is not None
        version = rig.leader.send(table_of(upstream))
        await rig.known(lambda report: report.table_version == version)
        running = [asyncio.ensure_future(pod.stream()) for pod in rig.pods]
        report = await rig.known(lambda report: report.models[MODEL].in_flight == 2)
        assert report.replicas[SLOT].in_flight == 2
        for each in running:
            assert (await each).body.endswith(b"[DONE]\n\n")
        report = await rig.known(lambda report: report.models[MODEL].completed_total == 2)
        assert report.models[MODEL].arrivals_total == 2


async def test_the_load_is_unknown_while_a_gateway_is_killed_and_known_when_another_takes_its_place(
    server: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_reader, "SILENCE_SECONDS", 2.5)
    async with replicas(None) as (upstream,), rig_on(server, tmp_path) as rig:
        assert rig.leader is not None
        version = rig.leader.send(table_of(upstream))
        await rig.known(lambda report: report.table_version == version)
        survivor, victim = rig.pods
        for pod in rig.pods:
            assert (await pod.ask()).status == 200
        await rig.known(lambda report: report.models[MODEL].completed_total == 2)
        await victim.kill_gateway()
        await rig.until(lambda report: report is None)
        await victim.start_gateway()
        wakes = rig.wakes
        report = await rig.known(lambda report: report.table_version == version)
        assert rig.wakes > wakes
        assert report.models[MODEL].completed_total == 2, "what the killed one had counted is not lost"
        assert (await survivor.ask()).status == 200
        await rig.known(lambda report: report.models[MODEL].completed_total == 3)


async def test_a_gateway_whose_pod_is_gone_is_missed_no_longer(
    server: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_reader, "SILENCE_SECONDS", 2.5)
    async with rig_on(server, tmp_path) as rig:
        await rig.known()
        await rig.pods[0].kill_gateway()
        await rig.until(lambda report: report is None)
        await rig.remove(rig.pods[0])
        await rig.known()


async def test_a_replica_drains_once_every_gateway_has_heard_of_it(
    server: FakeApiServer, tmp_path: Path
) -> None:
    async with replicas(stream(60, every=0.02)) as (upstream,), rig_on(server, tmp_path) as rig:
        assert rig.leader is not None
        await rig.known()
        version = rig.leader.send(table_of(upstream))
        await rig.known(lambda report: report.table_version == version)
        deaf = rig.pods[1]
        await deaf.stop_agent()
        running = asyncio.ensure_future(rig.pods[0].stream())
        await eventually(lambda: upstream.seen)
        rig.leader.send(table_of(upstream, ReplicaState.DRAINING))
        await asyncio.sleep(0.7)
        latest = rig.leader.latest_report()
        assert latest is not None
        assert latest[0].replicas[SLOT].state is ReplicaState.READY
        await deaf.start_agent()
        report = await rig.known(lambda report: report.replicas[SLOT].state is ReplicaState.DRAINING)
        assert report.replicas[SLOT].in_flight <= 1
        assert (await running).body.endswith(b"[DONE]\n\n")
        await rig.known(lambda report: report.replicas[SLOT].in_flight == 0)


async def test_the_requests_of_a_deleted_model_end_in_peace_and_then_its_replica_counts_as_drained(
    server: FakeApiServer, tmp_path: Path
) -> None:
    async with replicas(stream(60, every=0.02)) as (upstream,), rig_on(server, tmp_path) as rig:
        assert rig.leader is not None
        version = rig.leader.send(table_of(upstream))
        await rig.known(lambda report: report.table_version == version)
        running = asyncio.ensure_future(rig.pods[0].stream())
        await eventually(lambda: upstream.seen)
        rig.find_owner = lambda _: None
        await rig.step_down()
        await rig.lead()
        assert rig.leader is not None
        rig.leader.send(table_of(upstream, ReplicaState.DRAINING))
        report = await rig.known(
            lambda report: SLOT in report.replicas and report.replicas[SLOT].state is ReplicaState.DRAINING
        )
        assert report.replicas[SLOT].in_flight == 1
        assert (await running).body.endswith(b"[DONE]\n\n")
        await rig.known(lambda report: SLOT in report.replicas and report.replicas[SLOT].in_flight == 0)


async def test_gateways_serve_on_while_nobody_leads(server: FakeApiServer, tmp_path: Path) -> None:
    async with replicas(stream(50, every=0.02)) as (upstream,), rig_on(server, tmp_path) as rig:
        assert rig.leader is not None
        version = rig.leader.send(table_of(upstream))
        await rig.known(lambda report: report.table_version == version)
        running = [asyncio.ensure_future(pod.stream()) for pod in rig.pods]
        await eventually(lambda: len(upstream.seen) == 2)
        await rig.step_down()
        answers = await asyncio.gather(*running, *[pod.stream() for pod in rig.pods])
        assert all(answer.body.endswith(b"[DONE]\n\n") for answer in answers)
        await rig.lead()
        await rig.known(lambda report: report.table_version == version)


async def test_with_the_api_server_away_agent_and_gateway_may_even_be_restarted(
    server: FakeApiServer, tmp_path: Path
) -> None:
    async with (
        replicas(stream(80, every=0.02)) as (upstream,),
        rig_on(server, tmp_path, gateways=1) as rig,
    ):
        assert rig.leader is not None
        (pod,) = rig.pods
        version = rig.leader.send(table_of(upstream))
        await rig.known(lambda report: report.table_version == version)
        server.before = away
        running = asyncio.ensure_future(pod.stream())
        await eventually(lambda: upstream.seen)
        await pod.stop_agent()
        await pod.start_agent()
        await rig.known(lambda report: report.models[MODEL].in_flight == 1)
        assert (await running).body.endswith(b"[DONE]\n\n")
        await pod.kill_gateway()
        await pod.stop_agent()
        await pod.start_gateway()
        assert await pod.probe("/readyz") == 503
        await pod.start_agent()
        await pod.wait_ready()
        assert (await pod.stream()).body.endswith(b"[DONE]\n\n")
        server.before = no_delay
        later = rig.leader.send(table_of(upstream, ReplicaState.DRAINING))
        await rig.known(lambda report: report.table_version == later)


async def test_garbage_among_the_slices_costs_nothing(server: FakeApiServer, tmp_path: Path) -> None:
    async with replicas(None) as (upstream,), rig_on(server, tmp_path, gateways=1) as rig:
        assert rig.leader is not None
        version = rig.leader.send(table_of(upstream))
        await rig.known(lambda report: report.table_version == version)
        await rig.step_down()  # so that nobody clears it away
        for number, annotations in enumerate(
            ({}, {"plinth.dev/route": "{"}, {"plinth.dev/replica": '{"slot": 3}'}, {"plinth.dev/route": "[]"})
        ):
            labels = {"plinth.dev/routes": "v1", "plinth.dev/model": "chat"}
            metadata = {"namespace": "default", "name": f"plinth.rubbish-{number}"}
            body = {"metadata": {**metadata, "labels": labels, "annotations": annotations}}
            await server.client().create(ENDPOINT_SLICE, body | {"addressType": "IPv4", "endpoints": []})
        await asyncio.sleep(0.5)
        assert (await rig.pods[0].ask()).status == 200
        await rig.lead()
        again = rig.leader.send(table_of(upstream))
        await rig.known(lambda report: report.table_version == again)
        assert (await rig.pods[0].ask()).status == 200
        names = {name for _, _, name in server.objects}
        assert not any("rubbish" in name for name in names)


async def test_a_wrong_token_is_shown_nothing_and_the_load_stays_unknown(
    server: FakeApiServer, tmp_path: Path
) -> None:
    async with rig_on(server, tmp_path, gateways=1) as rig:
        await rig.known()
        (pod,) = rig.pods
        await pod.stop_agent()
        other = tmp_path / "another-token"
        other.write_text("of somebody else")
        await rig.step_down()
        await pod.start_agent(token_file=other)
        await rig.lead()
        await asyncio.sleep(1.2)
        assert rig.leader is not None
        assert rig.leader.latest_report() is None
        other.write_text((tmp_path / "token").read_text())  # a Secret's file follows the Secret
        await rig.known()


async def test_a_gateway_that_never_became_ready_does_not_make_the_load_unknown(
    server: FakeApiServer, tmp_path: Path
) -> None:
    async with rig_on(server, tmp_path, gateways=1) as rig:
        await rig.known()
        crashing = rig.pods[0].__class__("crashing", tmp_path, "127.0.0.1", 8083, RELEASE, rig.make_client)
        await rig.register(crashing, ready=False)
        await asyncio.sleep(0.3)
        await rig.known()
        await rig.set_ready(crashing, ready=True)
        await rig.until(lambda report: report is None)
