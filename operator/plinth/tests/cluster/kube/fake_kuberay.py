"""KubeRay and the kubelets on an API server in memory, with a Ray head that answers over HTTP for each RayCluster.

`reconcile` does what KubeRay's operator does with RayClusters, named workers first. It never chooses a worker to
remove: where it would have to, the test fails. `start_pods` does what scheduler and kubelets do.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import itertools
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from plinth.tests.cluster.kube.fake_api_server import FakeApiServer
from plinth.tests.controllers.fake_ray import FakeRay, make_node_row

CLUSTERS, PODS, NODES, SECRETS = (
    "/apis/ray.io/v1/rayclusters",
    "/api/v1/pods",
    "/api/v1/nodes",
    "/api/v1/secrets",
)


class FakeHead:
    """A Ray's dashboard, which wants a token."""

    def __init__(self, token: str) -> None:
        self.ray = FakeRay(start_seconds=0)
        self.ray.node_rows = []
        self.token = token
        self.answering = asyncio.Event()
        """Clear: it takes requests and does not answer them."""
        self.answering.set()
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/api/v0/nodes", self._nodes)
        app.router.add_get("/api/serve/applications/", self._applications)
        app.router.add_put("/api/serve/applications/", self._put)
        self._server = TestServer(app)

    async def start(self) -> None:
        await self._server.start_server()

    async def close(self) -> None:
        await self._server.close()

    @property
    def url(self) -> str:
        return str(self._server.make_url(""))

    async def _nodes(self, request: web.Request) -> web.Response:
        await self._admit(request)
        return web.json_response({"data": {"result": {"result": self.ray.node_rows}}})

    async def _applications(self, request: web.Request) -> web.Response:
        await self._admit(request)
        return web.json_response(self.ray.applications())

    async def _put(self, request: web.Request) -> web.Response:
        await self._admit(request)
        await self.ray.apply(await request.json())
        return web.Response()

    async def _admit(self, request: web.Request) -> None:
        await self.answering.wait()
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            raise web.HTTPForbidden


class FakeKubeRay:
    """See the module."""

    def __init__(self, server: FakeApiServer) -> None:
        self.server = server
        self.heads: dict[str, FakeHead] = {}
        """By RayCluster, `namespace/name`."""
        self._addresses: dict[str, str] = {}
        self._numbers = itertools.count(1)

    def add_node(
        self, name: str, *, cpu: str = "16", memory: str = "64Gi", gpus: int = 0, **labels: str
    ) -> None:
        self.server.put(
            NODES,
            {
                "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}},
                "spec": {},
                "status": {
                    "allocatable": {"cpu": cpu, "memory": memory, "nvidia.com/gpu": str(gpus)},
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            },
        )

    def change_node(self, name: str, **status: Any) -> None:
        node = self.server.objects[NODES, "", name]
        self.server.put(NODES, {**node, "status": {**node["status"], **status}})

    async def settle(self) -> None:
        """Everything that follows from the RayClusters as they are."""
        await self.reconcile()
        self.start_pods()

    async def reconcile(self) -> None:
        for (kind, namespace, name), cluster in list(self.server.objects.items()):
            if kind == CLUSTERS:
                await self._reconcile(f"{namespace}/{name}", cluster)
        for ray in self.heads.keys() - {
            "/".join(key[1:]) for key in self.server.objects if key[0] == CLUSTERS
        }:
            for pod in self.pods(ray):
                self.remove_pod(ray, pod)
            await self.heads.pop(ray).close()

    async def _reconcile(self, ray: str, cluster: dict[str, Any]) -> None:
        namespace, name = ray.split("/")
        if ray not in self.heads:
            head = self.heads[ray] = FakeHead(token=f"token of {name}")
            await head.start()
            token = base64.b64encode(head.token.encode()).decode()
            self.server.put(
                SECRETS, {"metadata": {"name": name, "namespace": namespace}, "data": {"auth_token": token}}
            )
        spec = cluster["spec"]
        if not self.pods(ray, kind="head"):
            self._make_pod(ray, "head", "headgroup", spec["headGroupSpec"]["template"])
        for group in spec.get("workerGroupSpecs", ()):
            self._reconcile_group(ray, group)

    def _reconcile_group(self, ray: str, group: dict[str, Any]) -> None:
        for name in group.get("scaleStrategy", {}).get("workersToDelete", ()):
            self.remove_pod(ray, name)
        left = self.pods(ray, group=group["groupName"])
        assert len(left) <= group["replicas"], f"KubeRay would take any of {left}"
        for _ in range(group["replicas"] - len(left)):
            self._make_pod(ray, "worker", group["groupName"], group["template"])

    def _make_pod(self, ray: str, kind: str, group: str, template: dict[str, Any]) -> None:
        namespace, name = ray.split("/")
        labels = {"ray.io/cluster": name, "ray.io/node-type": kind, "ray.io/group": group}
        self.server.put(
            PODS,
            {
                "metadata": {
                    "name": f"{name}-{kind}-{next(self._numbers)}",
                    "namespace": namespace,
                    "labels": {**template["metadata"]["labels"], **labels},
                },
                "spec": {},
                "status": {"phase": "Pending"},
            },
        )

    def start_pods(self) -> None:
        """Every pending pod gets a node, an address, and its place in its Ray."""
        for (kind, namespace, name), pod in list(self.server.objects.items()):
            if kind == PODS and pod["status"]["phase"] == "Pending":
                self._start_pod(namespace, name, pod)

    def _start_pod(self, namespace: str, name: str, pod: dict[str, Any]) -> None:
        number = next(self._numbers)
        address = f"10.0.{number // 250}.{number % 250}"
        labels = pod["metadata"]["labels"]
        ray = f"{namespace}/{labels['ray.io/cluster']}"
        taken = {each["spec"].get("nodeName") for key, each in self.server.objects.items() if key[0] == PODS}
        free = [key[2] for key in sorted(self.server.objects) if key[0] == NODES and key[2] not in taken]
        is_worker = labels["ray.io/node-type"] == "worker"
        node = free[0] if is_worker and free else "elsewhere"
        status = {"phase": "Running", "podIP": address}
        self.server.put(PODS, {**pod, "spec": {"nodeName": node}, "status": status})
        if is_worker:
            row = make_node_row(f"ray-{name}")
            self.heads[ray].ray.node_rows.append({**row, "node_ip": address, "start_time_ms": number})
        else:
            self._addresses[address] = ray

    def pods(self, ray: str, *, kind: str = "worker", group: str = "") -> list[str]:
        """The pods of a RayCluster, by name."""
        namespace, name = ray.split("/")
        found = []
        for (what, where, pod_name), pod in sorted(self.server.objects.items()):
            labels = pod["metadata"].get("labels", {})
            mine = (what, where, labels.get("ray.io/cluster")) == (PODS, namespace, name)
            if mine and labels["ray.io/node-type"] == kind and group in {"", labels["ray.io/group"]}:
                found.append(pod_name)
        return found

    def remove_pod(self, ray: str, name: str) -> None:
        """The pod is gone; Ray lists its node for a while longer."""
        key = (PODS, ray.partition("/")[0], name)
        if key in self.server.objects:
            self.server._store("DELETED", key, copy.deepcopy(self.server.objects[key]))

    def change_pod(self, ray: str, name: str, *, status: dict[str, Any], **metadata: Any) -> None:
        namespace = ray.partition("/")[0]
        pod = self.server.objects[PODS, namespace, name]
        changed = {**pod, "status": {**pod["status"], **status}, "metadata": {**pod["metadata"], **metadata}}
        self.server.put(PODS, changed)

    def dashboard(self, address: str) -> str:
        """Where the head with this address answers."""
        return self.heads[self._addresses[address]].url

    async def close(self) -> None:
        for head in self.heads.values():
            await head.close()
