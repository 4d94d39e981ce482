"""What the operator costs and how soon it acts: few models, then a thousand from cold, at rest, and in a storm of edits.

    make bench-operator

Real: kube-apiserver, etcd, a thousand nodes kept by KWOK, the operator as it is shipped. Played (`ray_fleet.py`, a
process of its own): KubeRay and the pools' Rays, each of which keeps `capacity_contract` first. All share the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
from kube.control_plane import ControlPlane
from kube.fixtures import install_crds
from kube.kuberay import install_ray_crds
from kube.processes import Process, ProcessId, find_free_ports
from kube.run_folder import RunFolder, end_abandoned
from ray_fleet import JOURNAL, NETWORK
from records import Record, installed_versions, this_command, write_records

from plinth.cluster.kube.client import KubeClient
from plinth.cluster.kube.kinds import GPU_POOL, MODEL_DEPLOYMENT, NODE, RAY_CLUSTER, SECRET
from plinth.cluster.kube.reflector import Reflector
from plinth.cluster.ray_rest import RayRest
from plinth.desired.pod_settings import make_pod_settings
from plinth.tests.controllers import capacity_contract
from plinth.tests.domain.builders import make_pool

HERE = Path(__file__).parent
NAMESPACE, TEAM = "plinth-system", "models"
POOLS, NODES, MODELS = 4, 1000, 1000
ACCELERATORS = 8
IDLE_SECONDS = 300.0
SAMPLES = 60
WRITERS = 16
STEPS = ("gather", "plan", "execute", "status")
OPERATOR = "plinth-operator"
OWN_NETWORK = "PLINTH_BENCH_NETWORK"
AUDIT_POLICY = f"""
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {{level: Metadata, users: [{OPERATOR}], verbs: [create, update, patch, delete, deletecollection]}}
  - {{level: None}}
"""


class AuditedControlPlane(ControlPlane):
    """Writes down every change that the operator makes."""

    @property
    def audit_log(self) -> Path:
        return self.run.path / "audit.log"

    def _api_server_flags(self, etcd_port: int) -> list[str]:
        policy = self.run.path / "audit-policy.yaml"
        policy.write_text(AUDIT_POLICY)
        audit = [f"--audit-policy-file={policy}", f"--audit-log-path={self.audit_log}"]
        # One client makes all of the load here: priority and fairness would measure its queue.
        return [*super()._api_server_flags(etcd_port), *audit, "--enable-priority-and-fairness=false"]

    def writes(self, *, since: float = 0.0) -> list[str]:
        """What the operator wrote since then, as `verb resource`."""
        if not self.audit_log.exists():
            return []
        found = []
        for line in self.audit_log.read_text().splitlines():
            event = json.loads(line)
            if _seconds(event["requestReceivedTimestamp"]) >= since:
                found.append(f"{event['verb']} {event['objectRef']['resource']}")
        return found


@dataclass
class Scene:
    """One API server with nodes, the played fleet and the operator."""

    control_plane: AuditedControlPlane
    client: KubeClient
    operator: Process
    fleet: Process
    metrics_port: int

    async def start_operator(self) -> float:
        """Returns when it was started, in Unix seconds."""
        began = time.time()
        self.operator.start()
        return began

    async def metrics(self) -> str:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.metrics_port}/metrics") as response,
        ):
            return await response.text()

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.operator.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self) -> float:
        status = Path(f"/proc/{self.operator.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found, "the operator does not run"
        return int(found[1]) / 1024

    async def pools(self) -> list[dict[str, Any]]:
        return (await self.client.list(GPU_POOL))[0]

    async def models(self) -> list[dict[str, Any]]:
        return (await self.client.list(MODEL_DEPLOYMENT))[0]


@contextlib.asynccontextmanager
async def make_scene(nodes: int) -> AsyncIterator[Scene]:
    """An API server with so many nodes; neither fleet nor operator runs yet."""
    run = RunFolder.claim("bench-operator", owner=ProcessId.of(os.getpid()))
    try:
        control_plane = AuditedControlPlane(run)
        control_plane.start()
        install_crds(control_plane)
        install_ray_crds(control_plane)
        os.environ["KUBECONFIG"] = str(control_plane.kubeconfig)
        client = await KubeClient.connect()
        kwok = control_plane.process(
            "kwok",
            f"--kubeconfig={control_plane.kubeconfig}",
            "--manage-all-nodes=true",
            "--node-lease-duration-seconds=3600",
        )
        kwok.start()
        try:
            await make_nodes(client, nodes)
            await make_secrets(client, control_plane)
            port, webhook = find_free_ports(2)
            yield Scene(
                control_plane=control_plane,
                client=client,
                operator=operator_process(control_plane, port, webhook),
                fleet=run.process(
                    "ray-fleet", [sys.executable, HERE / "ray_fleet.py", control_plane.kubeconfig]
                ),
                metrics_port=port,
            )
        finally:
            await client.close()
    except BaseException:
        kept = Path(tempfile.mkdtemp(prefix="bench-operator-"))
        shutil.copytree(run.logs, kept / "logs")
        print(f"# logs: {kept}", file=sys.stderr)
        raise
    finally:
        run.end()


def operator_process(control_plane: AuditedControlPlane, port: int, webhook: int) -> Process:
    folder = control_plane.run.path
    return control_plane.run.process(
        "operator",
        [
            *(sys.executable, "-m", "plinth.cli", "operator", "--namespace", NAMESPACE),
            *("--engine-image", "engine:bench", "--metrics-port", str(port), "--webhook-port", str(webhook)),
            *("--secret-file", folder / "secret", "--token-file", folder / "token"),
        ],
        {"KUBECONFIG": str(control_plane.user_kubeconfig(OPERATOR, groups=["system:masters"]))},
    )


async def make_nodes(client: KubeClient, count: int) -> None:
    async def make(number: int) -> None:
        labels = {
            "kubernetes.io/hostname": f"node-{number:04}",
            "nvidia.com/gpu.product": "NVIDIA-H200",
            "nvidia.com/gpu.memory": "143771",
            "plinth.dev/rack": f"rack-{number % POOLS}",
            "type": "kwok",
        }
        amounts = {"cpu": "192", "memory": "2Ti", "pods": "110", "nvidia.com/gpu": str(ACCELERATORS)}
        await client.create(
            NODE,
            {
                "metadata": {"name": f"node-{number:04}", "labels": labels},
                "status": {"allocatable": amounts, "capacity": amounts},
            },
        )
        # The controller that takes new nodes' taint away when they are ready does not run here.
        await client.patch(NODE, "", f"node-{number:04}", {"spec": {"taints": None}})

    await each(range(count), make)

    async def are_ready() -> bool:
        found, _ = await client.list(NODE)
        return all(
            any(
                state["type"] == "Ready" and state["status"] == "True"
                for state in node["status"].get("conditions", ())
            )
            for node in found
        )

    await until(are_ready, seconds=180, what="all nodes are ready")


async def make_secrets(client: KubeClient, control_plane: AuditedControlPlane) -> None:
    for namespace in (NAMESPACE, TEAM):
        control_plane.kubectl("create", "namespace", namespace)
    for name, secret, key in (("secret", "plinth-engine", "secret"), ("token", "plinth-gateway", "token")):
        value = secrets.token_hex(16)
        (control_plane.run.path / name).write_text(value)
        body = {"metadata": {"name": secret, "namespace": NAMESPACE}, "stringData": {key: value}}
        await client.create(SECRET, body)


def pool(number: int, *, name: str = "", **workers: Any) -> dict[str, Any]:
    spec = {
        "accelerator": "H200",
        "nodeSelector": {"plinth.dev/rack": f"rack-{number % POOLS}"},
        "workers": {"idleSeconds": 3600, **workers},
    }
    name = name or f"rack-{number}"
    return {**_header("GPUPool"), "metadata": {"name": name}, "spec": spec}


def model(number: int, *, prefix: str = "model") -> dict[str, Any]:
    """One in four of each tensor parallel degree from 1 to 8, so that whole nodes fill up."""
    return {
        **_header("ModelDeployment"),
        "metadata": {"name": f"{prefix}-{number:04}", "namespace": TEAM},
        "spec": {
            "model": {"source": "file:///models/qwen32b"},
            "pool": f"rack-{number % POOLS}",
            "parallelism": {"tensor": 2 ** (number // POOLS % 4)},
            "scaling": {"minReplicas": 1, "maxReplicas": 4},
        },
    }


def _header(kind: str) -> dict[str, str]:
    return {"apiVersion": "plinth.dev/v1alpha1", "kind": kind}


# --- few models: how soon an apply is acted upon ------------------------------------------------------------------


async def measure_reaction() -> list[Record]:
    async with make_scene(40) as scene:
        scene.fleet.start()
        await scene.start_operator()
        seen: dict[str, float] = {}
        clusters = Reflector(scene.client, RAY_CLUSTER, on_change=lambda: note())  # noqa: PLW0108 - defined below

        def note() -> None:
            for _, name in clusters.items:
                seen.setdefault(name, time.time())

        clusters.start()
        await clusters.wait_synced()
        for number in range(POOLS):
            await scene.client.create(GPU_POOL, pool(number, min=8))
        await until(lambda: pools_have(scene, POOLS, workers=8), seconds=90, what="the pools have workers")
        await keep_contract(scene)
        ray_clusters = [await time_pool(scene, number, seen) for number in range(SAMPLES)]
        configs = [await time_model(scene, number) for number in range(SAMPLES)]
        await clusters.close()
    return [
        *spread("operator_apply_to_raycluster_ms", ray_clusters, p50="<=200", p99="<=1000"),
        *spread("operator_apply_to_plan_ms", configs, p50="<=200", p99="<=1000"),
    ]


async def pools_have(scene: Scene, count: int, *, workers: int) -> bool:
    found = await scene.pools()
    return sum(int((each.get("status") or {}).get("nodes", 0)) >= workers for each in found) >= count


async def keep_contract(scene: Scene) -> None:
    """Each pool's Ray answers as the port's contract says, over HTTP, before anything is measured on it."""
    for cluster in (await scene.client.list(RAY_CLUSTER))[0]:
        address = await head_address(scene, cluster["metadata"]["name"])
        token = scene.control_plane.run.path / "ray-token"
        token.write_text(f"token-of-{cluster['metadata']['name']}")
        rest = RayRest(f"http://{address}:8265", token)
        scene.operator.stop()  # two who say what should run would undo each other
        try:
            await capacity_contract.holds(
                rest, make_pod_settings(make_pool("any")), lambda: asyncio.sleep(0.1)
            )
        finally:
            await rest.close()
            await scene.start_operator()
    await until(lambda: leads(scene), seconds=60, what="the operator leads again")


async def head_address(scene: Scene, cluster: str) -> str:
    pod = scene.control_plane.get("pod", f"{cluster}-head", NAMESPACE)
    return str(pod["status"]["podIP"])


async def leads(scene: Scene) -> bool:
    with contextlib.suppress(aiohttp.ClientError):
        return "plinth_leader 1.0" in await scene.metrics()
    return False


async def time_pool(scene: Scene, number: int, seen: Mapping[str, float]) -> float:
    """Milliseconds from the API server's answer to an apply until the RayCluster is there."""
    name = f"extra-{number}"
    await scene.client.create(GPU_POOL, pool(number, name=name))
    applied = time.time()

    async def is_there() -> bool:
        return any(each.startswith(f"{name}-") for each in seen)

    await until(is_there, seconds=20, what=f"RayCluster of {name}", pause=0.002)
    at = next(when for each, when in seen.items() if each.startswith(f"{name}-"))
    await scene.client.delete(GPU_POOL, "", name)
    return max(0.0, at - applied) * 1000


async def time_model(scene: Scene, number: int) -> float:
    """Milliseconds from the API server's answer to an apply until the Serve config with it is PUT."""
    body = model(0, prefix=f"timed-{number}")
    await scene.client.create(MODEL_DEPLOYMENT, body)
    applied = time.time()
    slot = f"{TEAM}.{body['metadata']['name']}."

    async def is_put() -> bool:
        return any(name.startswith(slot) for name in await journal())

    await until(is_put, seconds=20, what=f"Serve config of {slot}", pause=0.02)
    at = min(when for name, when in (await journal()).items() if name.startswith(slot))
    await scene.client.delete(MODEL_DEPLOYMENT, TEAM, body["metadata"]["name"])
    return max(0.0, at - applied) * 1000


async def journal() -> dict[str, float]:
    """When each application was first asked of any of the fleet's Rays."""
    async with (
        aiohttp.ClientSession() as session,
        session.get("http://{}:{}/journal".format(*JOURNAL)) as response,
    ):
        return dict(await response.json())


# --- a thousand models --------------------------------------------------------------------------------------------


async def measure_fleet() -> list[Record]:
    async with make_scene(NODES) as scene:
        await each(range(POOLS), lambda number: scene.client.create(GPU_POOL, pool(number)))
        await each(range(MODELS), lambda number: scene.client.create(MODEL_DEPLOYMENT, model(number)))
        scene.fleet.start()
        began = await scene.start_operator()
        planned = await time_until(began, lambda: settled(scene, "Planned"), what="all are planned")
        placed = await time_until(began, lambda: settled(scene, "Placed"), what="all are asked of Ray")
        ready = await time_until(began, lambda: settled(scene, "Ready"), what="all serve")
        asked = sum(name.startswith(f"{TEAM}.model-") for name in await journal())
        assert asked == MODELS, f"{asked} of {MODELS} models are in a Serve config"
        await until(lambda: is_quiet(scene), seconds=120, what="the last route is written", pause=1.0)
        quiet = time.time() - began
        idle = await measure_idle(scene)
        began = time.time()
        await each(range(MODELS), lambda number: edit(scene, number))
        sent = time.time() - began
        storm = await time_until(
            began, lambda: settled(scene, "Ready", replicas=2), what="the storm has settled"
        )
        page = await scene.metrics()
        peak = scene.peak_mib()
    peers = {
        "models": MODELS,
        "nodes": NODES,
        "pools": POOLS,
        "planned_seconds": round(planned, 1),
        "serving_seconds": round(ready, 1),
        "last_write_seconds": round(quiet, 1),
    }
    return [
        record("operator_cold_1000_models_seconds", placed, "s", "<=30", peers),
        record("operator_edit_storm_seconds", storm, "s", "<=30", {"edits_sent_in_seconds": round(sent, 1)}),
        *cycle_records(page),
        record("operator_rss_mib", peak, "MiB", "<=400", {"read": "VmHWM after the storm"}),
        *idle,
    ]


async def edit(scene: Scene, number: int) -> None:
    """Asks for a second replica."""
    name = model(number)["metadata"]["name"]
    await scene.client.patch(MODEL_DEPLOYMENT, TEAM, name, {"spec": {"scaling": {"minReplicas": 2}}})


async def settled(scene: Scene, condition: str, *, replicas: int = 0) -> bool:
    """Whether every model is judged in its newest version, holds the condition and has so many replicas ready."""
    for each_model in await scene.models():
        status = each_model.get("status") or {}
        conditions = {found["type"]: found for found in status.get("conditions", ())}
        if status.get("observedGeneration") != each_model["metadata"]["generation"]:
            return False
        if conditions.get(condition, {}).get("status") != "True" or status.get("readyReplicas", 0) < replicas:
            return False
    return True


async def is_quiet(scene: Scene) -> bool:
    """Whether the operator has written nothing for a while but its Lease."""
    return all(write.endswith(" leases") for write in scene.control_plane.writes(since=time.time() - 5))


async def measure_idle(scene: Scene) -> list[Record]:
    began, cpu = time.time(), scene.cpu_seconds()
    await asyncio.sleep(IDLE_SECONDS)
    lasted, used = time.time() - began, scene.cpu_seconds() - cpu
    writes = scene.control_plane.writes(since=began)
    renewals = sum(write.endswith(" leases") for write in writes)
    others = [write for write in writes if not write.endswith(" leases")]
    counted = {what: others.count(what) for what in sorted(set(others))}
    return [
        record("operator_idle_writes", len(others), "writes", "==0", {"seconds": round(lasted), **counted}),
        record(
            "operator_idle_lease_interval_seconds",
            lasted / max(renewals, 1),
            "s",
            ">=5",
            {"renewals": renewals},
        ),
        record("operator_idle_cpu_percent", 100 * used / lasted, "%", "<3", {"cpu_seconds": round(used, 2)}),
    ]


# --- figures ------------------------------------------------------------------------------------------------------


def record(metric: str, value: float, unit: str, goal: str, peers: Mapping[str, object]) -> Record:
    return Record(
        metric=metric,
        value=round(value, 3),
        unit=unit,
        goal=goal,
        peers={"cores": os.cpu_count(), **peers},
        versions=installed_versions("kopf", "pydantic", "aiohttp")
        | {"kubernetes": "1.34.4", "kwok": "0.7.0"},
        command=this_command(),
    )


def spread(metric: str, samples: list[float], *, p50: str, p99: str) -> list[Record]:
    ordered = sorted(samples)
    last = ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)]
    peers = {"samples": len(ordered), "slowest": round(ordered[-1])}
    return [
        record(f"{metric}_p50", statistics.median(ordered), "ms", p50, peers),
        record(f"{metric}_p99", last, "ms", p99, peers),
    ]


def cycle_records(page: str) -> list[Record]:
    """How long a pass took, and each of its steps."""
    whole, step = "plinth_cycle_seconds", "plinth_cycle_step_seconds"
    passes, seconds = (
        float(re.findall(rf"^{whole}_{what} (\S+)$", page, re.MULTILINE)[0]) for what in ("count", "sum")
    )
    peers = {
        "read": "upper bound of the bucket",
        "passes": int(passes),
        "mean_seconds": round(seconds / passes, 3),
        **{f"{name}_p99": quantile_of(page, step, 0.99, f',step="{name}"') for name in STEPS},
    }
    return [record("operator_cycle_seconds_p99", quantile_of(page, whole, 0.99), "s", "<=1", peers)]


def quantile_of(page: str, histogram: str, share: float, label: str = "") -> float:
    """The upper bound of the bucket in which the quantile lies."""
    buckets = [
        (float(bound), float(count))
        for bound, count in re.findall(
            rf'^{histogram}_bucket{{le="([^"]+)"{label}}} (\S+)$', page, re.MULTILINE
        )
    ]
    total = buckets[-1][1]
    return next(bound for bound, count in buckets if count >= share * total)


async def time_until(began: float, done: Callable[[], Awaitable[bool]], *, what: str) -> float:
    await until(done, seconds=240, what=what, pause=0.5)
    seconds = time.time() - began
    print(f"# {what}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return seconds


async def until(
    done: Callable[[], Awaitable[bool]], *, seconds: float, what: str, pause: float = 0.2
) -> None:
    deadline = time.monotonic() + seconds
    while not await done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        await asyncio.sleep(pause)


async def each(items: Iterable[int], do: Callable[[int], Awaitable[object]]) -> None:
    """All of them, a few at a time."""
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            await do(item)

    await asyncio.gather(*(work() for _ in range(WRITERS)))


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


async def main() -> None:
    end_abandoned()
    parts = {"reaction": measure_reaction, "fleet": measure_fleet}
    chosen = sys.argv[1:] or list(parts)
    records = [found for part in chosen for found in await parts[part]()]
    if set(chosen) == set(parts):
        write_records("operator", records)
    else:
        print(*(found.to_line() for found in records), sep="\n")


def enter_own_network() -> None:
    """Begin this program anew in a network namespace, where the played Rays have addresses and nobody else listens."""
    if os.environ.get(OWN_NETWORK) is None:
        command = ["unshare", "--net", sys.executable, *sys.argv]
        os.execvpe(command[0], command, {**os.environ, OWN_NETWORK: "1"})  # noqa: S606 - this program again
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for number in (*range(1, POOLS + SAMPLES + 1), 254):
        subprocess.run(["ip", "address", "add", f"{NETWORK}.{number}/32", "dev", "lo"], check=True)


if __name__ == "__main__":
    enter_own_network()
    asyncio.run(main())
