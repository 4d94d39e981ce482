"""What the faults happen to: three nodes, KubeRay, Redis, Plinth, and a model with two replicas on two nodes.

The control plane, the operators, the gateways and the Ray head are on `node1`; each replica has a worker pod and a node
of its own, so whichever part fails, it takes nothing else along.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster_platform import Platform, make_model, small_pool
from kube.access import KubectlError
from kube.cluster import FIRST_NODE, Cluster
from kube.fixtures import install_crds
from kube.host_python import CHECKOUT, host_environment, host_mounts, host_volumes
from kube.installation import NAMESPACE, install_chart, make_chart_values
from kube.kuberay import Redis, start_kuberay, start_redis
from kube.processes import ProcessId, wait_until
from kube.run_folder import RunFolder, end_abandoned

TEAM = "team-a"
MODEL = "smol"
POOL = "cpu"
NODES = ("node2", "node3")
STEPS = "/steps"
"""Where the operators look which step of their cycle they shall be killed at."""
LEASE = "plinth-operator"
REDIS_SECRET = "redis-password"
OPERATORS = "app.kubernetes.io/component=operator"
GATEWAYS = "app.kubernetes.io/component=gateway"
HEADS = "ray.io/node-type=head"
WORKERS = "ray.io/node-type=worker"
PARTS = {
    ("app.kubernetes.io/component", "operator"): 2,
    ("app.kubernetes.io/component", "gateway"): 2,
    ("ray.io/node-type", "head"): 1,
    ("ray.io/node-type", "worker"): 2,
}
"""The pods of a whole fleet, by a label."""
REPLICAS = 2
FIRST_NODE_SHARES, NODE_SHARES = 16384, 1536
"""Of the machine's cores; a program outside of all nodes has 1024."""
START_SECONDS = 360.0


@dataclass
class Fleet:
    """Everything that a fault is done to, and what can be seen of it."""

    cluster: Cluster
    redis: Redis
    platform: Platform
    steps: Path
    engine_start_seconds: float = 0.0

    @property
    def leader(self) -> str:
        """UID of the pod that holds the operators' Lease."""
        return str(self.lease().get("holderIdentity") or "")

    def lease(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.cluster.get("lease", LEASE, NAMESPACE)["spec"]
        return spec

    def pods(self, selector: str) -> list[dict[str, Any]]:
        """Those that are not on their way out."""
        found = self.platform.pods(selector)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def kill_pod(self, pod: dict[str, Any], begin: Callable[[], None]) -> None:
        """SIGKILL all that runs in a pod, and delete it by force; `begin` is called at the moment of death."""
        group = f"pod{pod['metadata']['uid']}"
        victims = [process for process in _processes() if group in _read(process, "cgroup")]
        begin()
        for process in victims:
            process.signal(signal.SIGKILL)
        flags = ("-n", NAMESPACE, "--force", "--grace-period=0", "--wait=false")
        self.cluster.kubectl("delete", "pod", pod["metadata"]["name"], *flags)

    def operator_process(self, uid: str) -> ProcessId:
        """The process of the operator in the pod of this UID."""
        for process in _processes():
            if f"POD_UID={uid}" in _read(process, "environ") and "\0operator\0" in _read(process, "cmdline"):
                return process
        raise LookupError(f"no operator runs in the pod {uid}")

    def gateways(self) -> list[str]:
        """Addresses of the gateways."""
        return [pod["status"].get("podIP", "") for pod in self.pods(GATEWAYS)]

    def is_whole(self) -> bool:
        """Whether all that was there before a fault is there, ready, and no more of it."""
        return not self.lacks()

    def lacks(self) -> list[str]:
        """What differs from a fleet that nothing happened to."""
        try:
            found = self.cluster.list("pods,rayclusters,endpointslices,mdl,leases", "-A")
        except KubectlError as error:
            return [str(error)]
        kinds: dict[str, list[dict[str, Any]]] = {}
        for item in found:
            kinds.setdefault(item["kind"], []).append(item)
        return [
            *_wrong_pods(kinds["Pod"]),
            *_wrong_model(kinds["ModelDeployment"]),
            *_wrong_slices(kinds["EndpointSlice"]),
            *_wrong_leader(kinds["Lease"], kinds["Pod"]),
            *self._wrong_rays(kinds.get("RayCluster", [])),
            *self._wrong_gateways(),
        ]

    def _wrong_rays(self, rays: list[dict[str, Any]]) -> Iterator[str]:
        if len(rays) != 1:
            yield f"{len(rays)} RayClusters"
        elif sorted((applications := self.applications(rays[0])).values()) != ["RUNNING"] * REPLICAS:
            yield f"Serve has {applications}"

    def _wrong_gateways(self) -> Iterator[str]:
        if (counts := [count_replicas(address) for address in self.gateways()]) != [REPLICAS, REPLICAS]:
            yield f"the gateways send to {counts} replicas"

    def applications(self, ray: dict[str, Any]) -> dict[str, str]:
        """Serve's applications and their states, as the head says."""
        head = next((pod for pod in self.pods(HEADS) if pod["status"].get("podIP")), None)
        if head is None:
            return {}
        secret = self.cluster.get("secret", ray["metadata"]["name"], NAMESPACE)
        token = base64.b64decode(secret["data"]["auth_token"]).decode()
        request = urllib.request.Request(
            f"http://{head['status']['podIP']}:8265/api/serve/applications/",
            headers={"Authorization": f"Bearer {token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - the same
                found = json.load(answer)["applications"]
        except OSError:
            return {}
        return {name: each["status"] for name, each in found.items()}


def _processes() -> Iterator[ProcessId]:
    return (ProcessId.of(int(folder.name)) for folder in Path("/proc").glob("[0-9]*"))


def _read(process: ProcessId, file: str) -> str:
    try:
        return Path(f"/proc/{process.pid}/{file}").read_text(errors="replace")
    except OSError:
        return ""


def _wrong_pods(pods: list[dict[str, Any]]) -> Iterator[str]:
    for (label, value), count in PARTS.items():
        part = [pod for pod in pods if pod["metadata"].get("labels", {}).get(label) == value]
        ready = [pod for pod in part if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]
        if len(ready) != count or len(part) != count:
            yield f"{len(ready)} of {len(part)} {value} pods are ready"


def _wrong_model(models: list[dict[str, Any]]) -> Iterator[str]:
    if len(models) != 1:
        yield f"{len(models)} ModelDeployments"
    for model in models:
        status = model.get("status", {})
        states = {each["type"]: each["status"] for each in status.get("conditions", [])}
        if states.get("Ready") != "True" or status.get("readyReplicas") != REPLICAS:
            yield f"the model is not Ready with {REPLICAS} replicas"
        if status.get("observedGeneration") != model["metadata"]["generation"]:
            yield "the model's last edit is not observed"


def _wrong_slices(slices: list[dict[str, Any]]) -> Iterator[str]:
    ours = [each for each in slices if each["metadata"]["namespace"] == TEAM]
    if sum(bool(each.get("endpoints")) for each in ours) != REPLICAS or len(ours) != REPLICAS + 1:
        yield f"{len(ours)} EndpointSlices of the model"


def _wrong_leader(leases: list[dict[str, Any]], pods: list[dict[str, Any]]) -> Iterator[str]:
    (holder,) = [each["spec"].get("holderIdentity") for each in leases if each["metadata"]["name"] == LEASE]
    if holder not in {pod["metadata"]["uid"] for pod in pods}:
        yield "nobody leads"


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True"


def count_replicas(gateway: str) -> int:
    """Replicas that the gateway at an address sends requests to."""
    samples = read_samples(f"http://{gateway}:8001/metrics")
    return int(
        sum(
            value
            for name, value in samples
            if name.startswith("plinth_gateway_replicas{") and 'state="Ready"' in name
        )
    )


def read_samples(url: str) -> list[tuple[str, float]]:
    """Prometheus' samples; none where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - http, to a pod
            lines = answer.read().decode().splitlines()
    except OSError:
        return []
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return [(name, float(value)) for name, _, value in pairs]


@contextmanager
def running() -> Iterator[Fleet]:
    """The fleet with two replicas ready; ended with everything of it."""
    end_abandoned()
    run = RunFolder.claim("faults", owner=ProcessId.of(os.getpid()))
    try:
        yield _start(Cluster(run))
    finally:
        run.end()


def _start(cluster: Cluster) -> Fleet:
    cluster.start()
    install_crds(cluster)
    for node in NODES:
        cluster.add_node(node)
    _put_first(cluster)
    start_kuberay(cluster)
    redis = start_redis(cluster)
    for namespace in (NAMESPACE, TEAM):
        cluster.kubectl("create", "namespace", namespace)
    secret = f"--from-literal=password={redis.password}"
    cluster.kubectl("create", "secret", "generic", REDIS_SECRET, "-n", NAMESPACE, secret)
    steps = cluster.run.path / "steps"
    steps.mkdir()
    steps.chmod(0o777)
    cluster.run.path.chmod(0o755)
    install_chart(cluster, _values(redis, steps), "--wait", "--timeout=4m")
    fleet = Fleet(cluster, redis, Platform(cluster), steps)
    cluster.apply(_pool())
    wait_until(
        lambda: any(is_ready(pod) for pod in fleet.pods(HEADS)),
        seconds=START_SECONDS,
        what="the head is ready",
    )
    begun = time.monotonic()
    cluster.apply(_model())
    wait_until(fleet.is_whole, seconds=START_SECONDS, what="both replicas are ready", pause=0.5)
    fleet.engine_start_seconds = round(time.monotonic() - begun, 1)
    return fleet


def _put_first(cluster: Cluster) -> None:
    """Keep engines from starving the first node: real nodes would not share their cores. Only cgroups of version 1."""
    for node in cluster.nodes:
        shares = FIRST_NODE_SHARES if node == FIRST_NODE else NODE_SHARES
        for group in Path("/sys/fs/cgroup/cpu").glob(f"plinth-{cluster.run.path.name}-{node}"):
            (group / "cpu.shares").write_text(str(shares))


def _values(redis: Redis, steps: Path) -> dict[str, Any]:
    first = {"nodeSelector": {"kubernetes.io/hostname": FIRST_NODE}}
    share = {"requests": {"cpu": "100m", "memory": "64Mi"}}
    return make_chart_values(
        operator={"resources": share, "replicas": 2, **first},
        gateway={"requiresKey": False, "resources": share, "agentResources": share, "replicas": 2, **first},
        redis={"enabled": False, "address": redis.address, "passwordSecret": REDIS_SECRET},
        executables={"plinth": str(_launcher(steps)), "python": sys.executable},
        extraEnv=[*host_environment(), {"name": "PLINTH_STEPS", "value": STEPS}],
        extraVolumes=[
            *host_volumes(),
            {"name": "steps", "hostPath": {"path": str(steps), "type": "Directory"}},
        ],
        extraVolumeMounts=[*host_mounts(), {"name": "steps", "mountPath": STEPS}],
    )


def _launcher(steps: Path) -> str:
    """A program that runs the operator so that it can be stopped at a step; the chart wants one word."""
    script = CHECKOUT / "e2e" / "benchmarks" / "interrupted_operator.py"
    launcher = steps / "plinth"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
    launcher.chmod(0o755)
    return f"{STEPS}/{launcher.name}"


def _pool() -> dict[str, Any]:
    pool = small_pool(POOL, most=3)
    apart = {
        "labelSelector": {"matchLabels": {"ray.io/node-type": "worker"}},
        "topologyKey": "kubernetes.io/hostname",
    }
    elsewhere = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [FIRST_NODE]}
    ray = pool["spec"]["ray"]
    ray["headTemplate"]["spec"]["nodeSelector"] = {"kubernetes.io/hostname": FIRST_NODE}
    ray["workerTemplate"]["spec"]["affinity"] = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [elsewhere]}]
            }
        },
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": apart}]
        },
    }
    return pool


def _model() -> dict[str, Any]:
    return make_model(
        MODEL,
        TEAM,
        objectives={"concurrency": 32, "contextTokens": 1024},
        scaling={"minReplicas": 2, "maxReplicas": 2},
    )
