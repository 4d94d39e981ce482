"""Real gateway processes with their agents, as pods have them, and a leader that tells and hears them all.

The API server is whatever a client can be made for: the one in memory here, a real one in e2e.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plinth.cluster.kube.client import POD, KubeClient
from plinth.cluster.kube.slice_gateway import SliceGateway
from plinth.cluster.kube.slice_writer import FindOwner
from plinth.domain.traffic import LoadReport
from plinth.runtime.gateway_agent import AgentOptions, GatewayAgent
from plinth.tests.gateway.harness import Answer, Child, Connection, start_gateway_process

TOKEN = "a-token-of-the-release"
MakeClient = Callable[[], Awaitable[KubeClient]]
_addresses = itertools.count(2)


class AlwaysLeader:
    """A fence that is never closed."""

    def check(self) -> None:
        return None


@dataclass
class GatewayPod:
    """One gateway and its agent, each of which can be ended and started again."""

    name: str
    folder: Path
    address: str
    port: int
    namespace: str
    make_client: MakeClient
    process: Child | None = None
    agent: GatewayAgent | None = None
    client: KubeClient | None = None

    async def start_gateway(self) -> None:
        self.process = await start_gateway_process(self.folder, "--drain-seconds", "5")

    async def kill_gateway(self) -> None:
        assert self.process is not None
        await self.process.end()

    async def start_agent(self, *, token_file: Path | None = None) -> None:
        (self.folder / "token").write_text(TOKEN)
        options = AgentOptions(
            control=self.folder / "g.sock",
            host=self.address,
            port=self.port,
            token_file=token_file or self.folder / "token",
            table_file=self.folder / "table.json",
            access_file=self.folder / "access.json",
            namespace=self.namespace,
            keys_namespace=self.namespace,
            requires_key=False,
        )
        self.client = await self.make_client()
        self.agent = GatewayAgent(self.client, options)
        await self.agent.start()

    async def stop_agent(self) -> None:
        assert self.agent is not None
        assert self.client is not None
        await self.agent.close()
        await self.client.close()
        self.agent = None

    async def connect(self) -> Connection:
        assert self.process is not None
        host, _, port = json.loads(self.process.announced)["listening"].rpartition(":")
        return Connection(*await asyncio.open_connection(host, int(port)))

    async def probe(self, path: str) -> int:
        return (await self._ask(path, method="GET")).status

    async def wait_ready(self) -> None:
        """As kubelet does before the Service sends requests here."""
        async with asyncio.timeout(5):
            while await self.probe("/readyz") != 200:
                await asyncio.sleep(0.02)

    async def ask(self) -> Answer:
        return await self._ask(body={"model": "chat", "messages": []})

    async def stream(self) -> Answer:
        return await self._ask(body={"model": "chat", "messages": [], "stream": True})

    async def _ask(self, *args: Any, **kwargs: Any) -> Answer:
        connection = await self.connect()
        try:
            return await connection.ask(*args, **kwargs)
        finally:
            connection.close()

    def manifest(self) -> dict[str, Any]:
        return {
            "metadata": {
                "namespace": self.namespace,
                "name": self.name,
                "labels": {"app.kubernetes.io/component": "gateway"},
            },
            "spec": {"containers": [{"name": "gateway", "image": "plinth"}]},
        }

    def status(self, *, ready: bool = True) -> dict[str, Any]:
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        return {
            "phase": "Running",
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "conditions": [condition],
        }


@dataclass
class GatewayRig:
    """Several gateways and one leader."""

    make_client: MakeClient
    namespace: str
    folder: Path
    find_owner: FindOwner
    pods: list[GatewayPod] = field(default_factory=list)
    leader: SliceGateway | None = None
    client: KubeClient | None = None
    wakes: int = 0

    async def add_pod(self, *, ready: bool = True) -> GatewayPod:
        """A pod whose gateway and agent run; its address is one that nobody else's test has."""
        number = next(_addresses)
        place = self.folder / f"gateway-{number}"
        place.mkdir()
        address = f"127.{os.getpid() % 250 + 1}.{os.getpid() // 250 % 250 + 1}.{number}"
        port = 8083
        pod = GatewayPod(place.name, place, address, port, self.namespace, self.make_client)
        self.pods.append(pod)
        await pod.start_gateway()
        await pod.start_agent()
        await self.register(pod, ready=ready)
        return pod

    async def register(self, pod: GatewayPod, *, ready: bool = True) -> None:
        assert self.client is not None
        await self.client.create(POD, pod.manifest())
        await self.set_ready(pod, ready=ready)

    async def set_ready(self, pod: GatewayPod, *, ready: bool) -> None:
        assert self.client is not None
        patch = {"status": pod.status(ready=ready)}
        await self.client.patch(POD, self.namespace, pod.name, patch, subresource="status")

    async def remove(self, pod: GatewayPod) -> None:
        """The pod object goes, as when kubelet has seen its processes end."""
        assert self.client is not None
        await self.client.delete(POD, self.namespace, pod.name)

    async def lead(self) -> SliceGateway:
        assert self.client is not None
        (self.folder / "token").write_text(TOKEN)

        def wake() -> None:
            self.wakes += 1

        self.leader = SliceGateway(
            self.client.fenced(AlwaysLeader()),
            namespace=self.namespace,
            token_file=self.folder / "token",
            find_owner=self.find_owner,
            first_version=int(time.time() * 1000),
            wake=wake,
            clock=time.time,
        )
        await self.leader.start()
        return self.leader

    async def step_down(self) -> None:
        assert self.leader is not None
        await self.leader.close()
        self.leader = None

    async def until(
        self, done: Callable[[LoadReport | None], bool], *, seconds: float = 10.0
    ) -> LoadReport | None:
        """Wait until the merged report is like this."""
        assert self.leader is not None
        deadline = time.monotonic() + seconds
        while True:
            latest = self.leader.latest_report()
            report = latest[0] if latest else None
            if done(report):
                return report
            if time.monotonic() > deadline:
                raise AssertionError(f"did not come to be within {seconds} s: {report}")
            await asyncio.sleep(0.02)

    async def known(self, done: Callable[[LoadReport], bool] = lambda _: True) -> LoadReport:
        """Wait until the load is known and like this."""
        report = await self.until(lambda found: found is not None and done(found))
        assert report is not None
        return report


@asynccontextmanager
async def gateway_rig(
    make_client: MakeClient, folder: Path, find_owner: FindOwner, *, namespace: str, gateways: int = 2
) -> AsyncIterator[GatewayRig]:
    """Gateways and a leader; all ended at the end."""
    rig = GatewayRig(make_client, namespace, folder, find_owner, client=await make_client())
    try:
        for _ in range(gateways):
            await rig.add_pod()
        await rig.lead()
        yield rig
    finally:
        if rig.leader is not None:
            await rig.leader.close()
        for pod in rig.pods:
            if pod.agent is not None:
                await pod.stop_agent()
            await pod.kill_gateway()
        if rig.client is not None:
            await rig.client.close()
