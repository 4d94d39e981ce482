"""Every way in which something fails: how it is brought about, how one sees that it was noticed, how it is mended.

A fault is a function of the fleet and a watch. It calls `watch.begin()` at the moment of failure, `watch.notices(...)`
for who should notice, and `watch.mended()` where the fault lasts, at the moment from which recovery counts.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cluster_platform import make_model
from fault_platform import (
    GATEWAYS,
    HEADS,
    MODEL,
    OPERATORS,
    REPLICAS,
    TEAM,
    WORKERS,
    Fleet,
    count_replicas,
    read_samples,
)
from interrupted_operator import STEPS
from kube.access import KubectlError
from kube.installation import NAMESPACE
from kube.processes import wait_until

AWAY_SECONDS = 60.0
REDIS_AWAY_SECONDS = 15.0
FROZEN_SECONDS = 20.0
NOTICE_SECONDS = 90.0
ELSEWHERE_SECONDS = 150.0
QUIET_SECONDS = 10.0
"""How long one that leads no longer is watched for writes."""
WRITES = ("POST", "PUT", "PATCH", "DELETE")


@dataclass
class Watch:
    """The times of one fault, and what it broke beside requests."""

    begun: float = 0.0
    detected: float | None = None
    recovers_from: float = 0.0
    recovered: float | None = None
    """Where the fault itself knows: a lost node comes back after the fleet has recovered, and only then is all as before."""
    complaints: list[str] = field(default_factory=list)

    def begin(self) -> None:
        self.begun = self.recovers_from = time.monotonic()

    def notices(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait until it is noticed; it is a complaint when nobody does."""
        try:
            wait_until(is_so, seconds=NOTICE_SECONDS, what=what)
        except TimeoutError as error:
            self.complaints.append(str(error))
        else:
            self.detected = time.monotonic() - self.begun

    def mended(self) -> None:
        """What was away is back."""
        self.recovers_from = time.monotonic()


@dataclass(frozen=True)
class Fault:
    """One kind of failure."""

    do: Callable[[Fleet, Watch], None]
    detection: str
    """What counts as noticed; empty where nothing need be."""
    goal: str = ""
    """For detection."""
    cuts_streams: bool = False
    """It kills what some streams run through, so those are cut; until streams resume that is as required."""


def operator_killed(step: str, fleet: Fleet, watch: Watch) -> None:
    """SIGKILL of the leader's process just before a step of a pass that has an edit to work on."""
    asked = fleet.steps / step
    asked.touch()
    asked.chmod(0o666)
    _edit(fleet)
    wait_until(
        asked.with_suffix(".reached").exists,
        seconds=NOTICE_SECONDS,
        what=f"a cycle comes to {step}",
        pause=0.01,
    )
    uid = fleet.leader
    restarts = _restarts(fleet, uid)
    process = fleet.operator_process(uid)
    watch.begin()
    process.signal(signal.SIGKILL)
    watch.notices(lambda: _restarts(fleet, uid) != restarts, "its container is restarted")


def operator_pod_killed(fleet: Fleet, watch: Watch) -> None:
    """The leader's pod deleted by force."""
    leader = fleet.leader
    (pod,) = [pod for pod in fleet.pods(OPERATORS) if pod["metadata"]["uid"] == leader]
    fleet.kill_pod(pod, watch.begin)
    watch.notices(lambda: fleet.leader not in {"", leader}, "another leads")


def api_server_away(fleet: Fleet, watch: Watch) -> None:
    """The API server stopped for a minute."""
    addresses = [pod["status"]["podIP"] for pod in fleet.pods(OPERATORS)]
    watch.begin()
    fleet.cluster.api_server.kill()
    watch.notices(lambda: not any(map(_leads, addresses)), "the leader has laid down its work")
    time.sleep(max(0.0, AWAY_SECONDS - (time.monotonic() - watch.begun)))
    fleet.cluster.api_server.start()
    fleet.cluster.wait_ready()
    watch.mended()


def etcd_restarted(fleet: Fleet, watch: Watch) -> None:
    """etcd killed and started again with its data."""
    watch.begin()
    fleet.cluster.etcd.kill()
    fleet.cluster.etcd.start()
    fleet.cluster.wait_ready()
    watch.mended()


def watch_cut(fleet: Fleet, watch: Watch) -> None:
    """Every connection to the API server broken at once, an edit made while the watches are down."""
    watch.begin()
    fleet.cluster.api_server.kill()
    fleet.cluster.api_server.start()
    fleet.cluster.wait_ready()
    watch.mended()
    _edit(fleet)


def head_killed(fleet: Fleet, watch: Watch) -> None:
    """The Ray head's pod deleted by force."""
    (head,) = fleet.pods(HEADS)
    fleet.kill_pod(head, watch.begin)
    watch.notices(
        lambda: _uids(fleet, HEADS).isdisjoint({head["metadata"]["uid"]}), "KubeRay makes a new head"
    )


def worker_killed(fleet: Fleet, watch: Watch) -> None:
    """One of the two worker pods deleted by force."""
    worker = fleet.pods(WORKERS)[0]
    gateways = fleet.gateways()
    fleet.kill_pod(worker, watch.begin)
    watch.notices(
        lambda: max(map(count_replicas, gateways)) < REPLICAS, "no gateway sends to the dead replica"
    )


def node_lost(fleet: Fleet, watch: Watch) -> None:
    """A worker's node gone as by a power cut; it comes back once the fleet has what it needs elsewhere."""
    gateways = fleet.gateways()
    watch.begin()
    fleet.cluster.kill_node("node3")
    watch.notices(
        lambda: max(map(count_replicas, gateways)) < REPLICAS, "no gateway sends to the dead replica"
    )
    try:
        wait_until(
            lambda: [*map(count_replicas, gateways)] == [REPLICAS, REPLICAS],
            seconds=ELSEWHERE_SECONDS,
            what="two replicas again, on the nodes that are left",
            pause=0.5,
        )
        watch.recovered = time.monotonic()
    except TimeoutError as error:
        watch.complaints.append(str(error))
    fleet.cluster.add_node("node3")


def gateway_killed(fleet: Fleet, watch: Watch) -> None:
    """One of the two gateway pods deleted by force."""
    gateway = fleet.pods(GATEWAYS)[0]
    address = gateway["status"]["podIP"]
    fleet.kill_pod(gateway, watch.begin)
    watch.notices(lambda: address not in _service_addresses(fleet), "its Service sends to it no longer")


def webhook_away(fleet: Fleet, watch: Watch) -> None:
    """No operator at all, and people who apply and delete meanwhile."""
    scale = partial(fleet.cluster.kubectl, "scale", "deployment", "plinth-operator", "-n", NAMESPACE)
    watch.begin()
    scale("--replicas=0")
    wait_until(lambda: not fleet.platform.pods(OPERATORS), seconds=NOTICE_SECONDS, what="no operator is left")
    try:
        fleet.cluster.apply(make_model("meanwhile", TEAM, scaling={"minReplicas": 0, "maxReplicas": 1}))
        fleet.cluster.kubectl("delete", "mdl", "meanwhile", "-n", TEAM, "--timeout=20s")
    except KubectlError as error:
        watch.complaints.append(str(error))
    scale("--replicas=2")
    watch.mended()


def redis_killed(fleet: Fleet, watch: Watch) -> None:
    """Redis killed, and started again with its data."""
    watch.begin()
    fleet.redis.process.kill()
    time.sleep(REDIS_AWAY_SECONDS)
    fleet.redis.start()
    watch.mended()


def two_leaders(fleet: Fleet, watch: Watch) -> None:
    """The leader's process stands still until another leads, then goes on as if no time had passed."""
    old = fleet.leader
    transitions = fleet.lease()["leaseTransitions"]
    (address,) = [pod["status"]["podIP"] for pod in fleet.pods(OPERATORS) if pod["metadata"]["uid"] == old]
    before = _writes(address)
    process = fleet.operator_process(old)
    watch.begin()
    process.signal(signal.SIGSTOP)
    watch.notices(lambda: fleet.leader not in {"", old}, "another leads")
    time.sleep(max(0.0, FROZEN_SECONDS - (time.monotonic() - watch.begun)))
    _edit(fleet)  # so that there is something that both could write
    process.signal(signal.SIGCONT)
    watch.mended()
    time.sleep(QUIET_SECONDS)
    if (written := _writes(address) - before) > 0:
        watch.complaints.append(f"the old leader was answered {written:g} writes after it went on")
    if _leads(address) or fleet.lease()["leaseTransitions"] != transitions + 1:
        watch.complaints.append(f"the Lease: {fleet.lease()}")


FAULTS: Mapping[str, Fault] = {
    "worker_killed": Fault(worker_killed, "no gateway sends to the dead replica", "<=1", cuts_streams=True),
    "node_lost": Fault(node_lost, "no gateway sends to the dead replica", "<=5", cuts_streams=True),
    "head_killed": Fault(head_killed, "KubeRay makes a new head", "<=1"),
    "gateway_killed": Fault(gateway_killed, "the Service sends to it no longer", "<=1", cuts_streams=True),
    "operator_pod_killed": Fault(operator_pod_killed, "another replica leads"),
    **{
        f"operator_killed_at_{step}": Fault(partial(operator_killed, step), "its container is restarted")
        for step in STEPS
    },
    "api_server_away": Fault(api_server_away, "the leader has laid down its work"),
    "etcd_restarted": Fault(etcd_restarted, ""),
    "watch_cut": Fault(watch_cut, ""),
    "webhook_away": Fault(webhook_away, ""),
    "redis_killed": Fault(redis_killed, ""),
    "two_leaders": Fault(two_leaders, "another replica leads"),
}


def _edit(fleet: Fleet) -> None:
    """Something small for the operator to take note of: status must come to tell of it."""
    seconds = 120 + fleet.cluster.get("mdl", MODEL, TEAM)["metadata"]["generation"] % 60
    patch = f'{{"spec": {{"scaling": {{"quietSeconds": {seconds}}}}}}}'
    fleet.cluster.kubectl("patch", "mdl", MODEL, "-n", TEAM, "--type=merge", "--patch", patch)


def _restarts(fleet: Fleet, uid: str) -> tuple[int, bool]:
    (pod,) = [pod for pod in fleet.pods(OPERATORS) if pod["metadata"]["uid"] == uid]
    (status,) = pod["status"]["containerStatuses"]
    return status["restartCount"], "running" in status["state"]


def _uids(fleet: Fleet, selector: str) -> set[str]:
    return {pod["metadata"]["uid"] for pod in fleet.pods(selector)} or {"none yet"}


def _service_addresses(fleet: Fleet) -> set[str]:
    slices: list[dict[str, Any]] = fleet.cluster.list(
        "endpointslices", "-n", NAMESPACE, "-l", "kubernetes.io/service-name=plinth-gateway"
    )
    endpoints = [endpoint for each in slices for endpoint in each["endpoints"] or ()]
    return {
        address
        for endpoint in endpoints
        if endpoint["conditions"].get("ready")
        for address in endpoint["addresses"]
    }


def _leads(address: str) -> bool:
    return ("plinth_leader", 1.0) in read_samples(f"http://{address}:8080/metrics")


def _writes(address: str) -> float:
    """Writes that the API server took from a replica of the operator, renewals of its Lease among them."""
    return sum(
        value
        for name, value in read_samples(f"http://{address}:8080/metrics")
        if name.startswith("plinth_kubernetes_requests_total{")
        and any(f'"{verb}"' in name for verb in WRITES)
        and 'code="2' in name
    )
