"""KubeRay, kubelets and Rays of a fleet that no test machine holds, so that the operator can be measured on it.

RayClusters get a head and workers as pods on the fleet's nodes, each head an address of its own on this machine with what
the operator asks of it there: Ray's dashboard, the inspector, and its pool's replicas. Behind the dashboard is the
`FakeRay` of the unit tests; `capacity_contract` is run on it over HTTP before anything is measured. A process of its
own, `python ray_fleet.py KUBECONFIG`: what it costs is not the operator's.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

import msgspec
from aiohttp import web

from plinth.cluster.inspector import encode_answer
from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.errors import KubeRefused
from plinth.cluster.kube.kinds import NODE, POD, RAY_CLUSTER, SECRET
from plinth.cluster.kube.reflector import Reflector
from plinth.desired import ray_names
from plinth.domain.fleet import Artifact, ModelFormat
from plinth.tests.controllers.fake_ray import FakeRay

START_SECONDS = 1.0
"""How long the engines here take, which is not what is measured."""
REPLICA_PORT = 30_000
NETWORK = "10.77.0"
"""Whose addresses this machine has, see `operator_scale.py`; an EndpointSlice takes none of loopback."""
WORKERS = "10.128.0.0/12"
"""Where the workers' addresses are from; nobody listens there."""
JOURNAL = (f"{NETWORK}.254", 8264)
CONFIG = {
    "model_type": "qwen2",
    "num_hidden_layers": 64,
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "vocab_size": 152064,
}
ARTIFACT = Artifact(format=ModelFormat.SAFETENSORS, config=CONFIG, weights_bytes=65 * 10**9)


@dataclass
class Pool:
    """One RayCluster played."""

    namespace: str
    name: str
    address: str
    token: str
    ray: FakeRay
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Workers asked of Kubernetes, by name."""
    made: int = 0


class RayFleet:
    """All RayClusters of an API server."""

    def __init__(self, client: KubeClient) -> None:
        self.client = client
        self.pools: dict[tuple[str, str], Pool] = {}
        self._changed = asyncio.Event()
        self._clusters = Reflector(client, RAY_CLUSTER, on_change=self._changed.set)
        self._pods = Reflector(client, POD, labels=ray_names.POOL_LABEL, on_change=self._changed.set)
        self._free: dict[str, list[str]] = {}
        self._addresses = ip_network(WORKERS).hosts()
        self._journal: dict[str, float] = {}
        self._runners: list[web.AppRunner] = []

    async def run(self) -> None:
        """Play until cancelled."""
        await self._find_hosts()
        await self._listen_for_readers()
        self._clusters.start()
        self._pods.start()
        await self._clusters.wait_synced()
        await self._pods.wait_synced()
        while True:
            self._changed.clear()
            for key, cluster in list(self._clusters.items.items()):
                await self._play(key, cluster)
            self._list_nodes()
            await self._changed.wait()

    async def _find_hosts(self) -> None:
        nodes, _ = await self.client.list(NODE)
        for node in nodes:
            rack = node["metadata"]["labels"].get("plinth.dev/rack", "")
            self._free.setdefault(rack, []).append(node["metadata"]["name"])

    async def _play(self, key: tuple[str, str], cluster: Mapping[str, Any]) -> None:
        pool = self.pools.get(key) or await self._begin(key, cluster)
        for group in cluster["spec"].get("workerGroupSpecs") or ():
            await self._resize(pool, group, cluster)

    async def _begin(self, key: tuple[str, str], cluster: Mapping[str, Any]) -> Pool:
        """The head: its address, its token, its pod."""
        namespace, name = key
        address = f"{NETWORK}.{len(self.pools) + 1}"
        ray = FakeRay(start_seconds=START_SECONDS, host=address)
        ray.node_rows = []
        pool = Pool(namespace=namespace, name=name, address=address, token=f"token-of-{name}", ray=ray)
        self.pools[key] = pool
        await self._listen(pool)
        token = base64.b64encode(pool.token.encode()).decode()
        metadata = {"namespace": namespace, "name": name}
        with contextlib.suppress(KubeRefused):
            await self.client.create(SECRET, {"metadata": metadata, "data": {ray_names.TOKEN_KEY: token}})
        labels = self._labels(cluster, ray_names.HEAD, "headgroup")
        await self._run_pod(f"{name}-head", namespace, labels, host="head-host", address=address)
        return pool

    @staticmethod
    def _labels(cluster: Mapping[str, Any], kind: str, group: str) -> dict[str, str]:
        metadata = cluster["metadata"]
        return {
            ray_names.POOL_LABEL: metadata["labels"][ray_names.POOL_LABEL],
            ray_names.CLUSTER_LABEL: metadata["name"],
            ray_names.NODE_KIND_LABEL: kind,
            ray_names.GROUP_LABEL: group,
        }

    async def _run_pod(
        self, name: str, namespace: str, labels: Mapping[str, str], *, host: str, address: str
    ) -> None:
        """Make a pod and say that it runs. KWOK would, yet at times leaves a hundred of them pending for half a minute."""
        body = {
            "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
            "spec": {"nodeName": host, "containers": [{"name": "ray", "image": "none"}]},
        }
        with contextlib.suppress(KubeRefused):
            await self.client.create(POD, body)
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
        await self.client.patch(POD, namespace, name, {"status": status}, subresource="status")

    async def _resize(self, pool: Pool, group: Mapping[str, Any], cluster: Mapping[str, Any]) -> None:
        """As many pods as asked, as KubeRay does it: first those that are named go, then what is missing comes."""
        for name in (group.get("scaleStrategy") or {}).get("workersToDelete") or ():
            if pool.pods.pop(name, None) is not None:
                await self.client.delete(POD, pool.namespace, name)
        labels = self._labels(cluster, ray_names.WORKER, group["groupName"])
        rack = group["template"]["spec"]["nodeSelector"].get("plinth.dev/rack", "")
        missing = int(group.get("replicas") or 0) - len(pool.pods)
        made = []
        for _ in range(missing):
            name = f"{pool.name}-worker-{pool.made}"
            pool.made += 1
            pool.pods[name] = dict(group)
            host, address = self._free[rack].pop(), str(next(self._addresses))
            made.append(self._run_pod(name, pool.namespace, labels, host=host, address=address))
        for start in range(0, len(made), 16):
            await asyncio.gather(*made[start : start + 16])

    def _list_nodes(self) -> None:
        """Ray's nodes are the workers whose pods run."""
        for pool in self.pools.values():
            pool.ray.node_rows = list(self._rows(pool))

    def _rows(self, pool: Pool) -> Iterable[dict[str, Any]]:
        for name, group in pool.pods.items():
            pod = self._pods.items.get((pool.namespace, name))
            status = (pod or {}).get("status") or {}
            if status.get("phase") == "Running" and status.get("podIP"):
                yield _row(name, status["podIP"], group)

    async def _listen_for_readers(self) -> None:
        """Tells those who measure when each application was first asked for."""
        app = web.Application()
        app.add_routes([web.get("/journal", self._tell_journal)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, *JOURNAL).start()
        self._runners.append(runner)

    async def _tell_journal(self, _: web.Request) -> web.Response:
        return _json(self._journal)

    async def _listen(self, pool: Pool) -> None:
        dashboard = web.Application(client_max_size=64 * 2**20)
        dashboard.add_routes(
            [
                web.get("/api/v0/nodes", lambda request: self._nodes(request, pool)),
                web.get("/api/serve/applications/", lambda request: self._applications(request, pool)),
                web.put("/api/serve/applications/", lambda request: self._put(request, pool)),
            ]
        )
        inspector, replicas = web.Application(), web.Application()
        inspector.add_routes([web.get("/artifact", _artifact)])
        replicas.add_routes([web.get("/{slot}/plinth/state", lambda request: self._state(request, pool))])
        ports = ((dashboard, ray_names.DASHBOARD_PORT), (inspector, ray_names.INSPECTOR_PORT))
        for app, port in (*ports, (replicas, REPLICA_PORT)):
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, pool.address, port).start()
            self._runners.append(runner)

    async def _nodes(self, request: web.Request, pool: Pool) -> web.Response:
        _check(request, pool)
        return _json({"data": {"result": {"result": pool.ray.node_rows}}})

    async def _applications(self, request: web.Request, pool: Pool) -> web.Response:
        _check(request, pool)
        pool.ray.now = time.time()
        serve = pool.ray.applications()
        for group in serve["target_groups"]:
            for target in group["targets"]:
                target["port"] = REPLICA_PORT
        return _json(serve)

    async def _put(self, request: web.Request, pool: Pool) -> web.Response:
        _check(request, pool)
        pool.ray.now = time.time()
        config = await request.json()
        for application in config["applications"]:
            self._journal.setdefault(application["name"], pool.ray.now)
        await pool.ray.apply(config)
        return web.Response()

    async def _state(self, request: web.Request, pool: Pool) -> web.Response:
        pool.ray.now = time.time()
        slot = request.match_info["slot"]
        report = await pool.ray.report(pool.address, pool.ray.port_of(slot), slot)
        if report is None:
            return web.Response(status=404)
        return web.Response(body=msgspec.json.encode(report), content_type="application/json")


def _row(pod: str, address: str, group: Mapping[str, Any]) -> dict[str, Any]:
    parameters = group["rayStartParams"]
    node_id = hashlib.sha224(pod.encode()).hexdigest()
    return {
        "state": "ALIVE",
        "node_id": node_id,
        "node_ip": address,
        "labels": {"ray.io/node-id": node_id, **group.get("labels", {})},
        "resources_total": {
            "CPU": float(parameters["num-cpus"]),
            "memory": float(parameters["memory"]),
            "GPU": float(parameters.get("num-gpus", 0)),
        },
    }


def _check(request: web.Request, pool: Pool) -> None:
    if request.headers.get("Authorization") != f"Bearer {pool.token}":
        raise web.HTTPUnauthorized


async def _artifact(_: web.Request) -> web.Response:
    return web.Response(body=encode_answer(ARTIFACT), content_type="application/json")


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


async def main() -> None:
    client = await KubeClient.connect()
    try:
        await RayFleet(client).run()
    finally:
        await client.close()


if __name__ == "__main__":
    os.environ["KUBECONFIG"] = sys.argv[1]
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
