"""The operator as a process on a real API server: who leads, what is written, and what an outage costs. No Ray."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kube.access import Kubernetes
from kube.control_plane import ControlPlane
from operator_plumbing import OperatorUnderTest

pytestmark = [pytest.mark.kube, pytest.mark.timeout(240)]

TAKEOVER_SECONDS = 20.0
"""The Lease's duration, a look every two seconds, and a first pass."""


def make_model(name: str, namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "plinth.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"model": {"source": "hf://org/smol"}},
    }


def make_pool(name: str) -> dict[str, Any]:
    return {"apiVersion": "plinth.dev/v1alpha1", "kind": "GPUPool", "metadata": {"name": name}, "spec": {}}


class Replicas:
    """The operator's replicas of one test, ended with it."""

    def __init__(self, cluster: Kubernetes, namespace: str, folder: Path) -> None:
        self._made: list[OperatorUnderTest] = []
        self._where = (cluster, namespace, folder)

    def start(self, name: str) -> OperatorUnderTest:
        made = OperatorUnderTest(*self._where, name)
        self._made.append(made)
        return made

    def end(self) -> None:
        for each in self._made:
            each.kill()


@pytest.fixture
def replicas(control_plane: Kubernetes, kube_namespace: str, tmp_path: Path) -> Iterator[Replicas]:
    made = Replicas(control_plane, kube_namespace, tmp_path)
    yield made
    made.end()


@pytest.fixture
def own_replicas(own_control_plane: ControlPlane, tmp_path: Path) -> Iterator[Replicas]:
    made = Replicas(own_control_plane, "default", tmp_path)
    yield made
    made.end()


def reason_of(cluster: Kubernetes, name: str, namespace: str) -> str:
    status = cluster.get("modeldeployment", name, namespace).get("status", {})
    return str(status.get("reason", ""))


def test_an_applied_model_gets_its_status_and_then_nothing_is_written_any_more(
    control_plane: Kubernetes, kube_namespace: str, replicas: Replicas
) -> None:
    operator = replicas.start("one")
    operator.wait(lambda: operator.leads, seconds=30, what="it leads")
    assert operator.probe("/healthz") == 200
    control_plane.apply(*(make_model(f"m{number}", kube_namespace) for number in range(20)))
    operator.wait(
        lambda: all(reason_of(control_plane, f"m{number}", kube_namespace) for number in range(20)),
        seconds=20,
        what="all have a status",
    )
    path = f"/apis/plinth.dev/v1alpha1/namespaces/{kube_namespace}/modeldeployments/m0"
    found = json.loads(control_plane.kubectl("get", "--raw", path))
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
    writers = {each["manager"]: each.get("subresource", "") for each in found["metadata"]["managedFields"]}
    assert writers == {"kubectl": "", "plinth": "status"}
    assert "finalizers" not in found["metadata"]
    assert "annotations" not in found["metadata"]
    time.sleep(2)
    before, renewed = operator.writes(), operator.writes("PUT")
    time.sleep(15)
    assert operator.writes() == before
    assert operator.writes("PUT") - renewed <= 4
    assert operator.metric("plinth_status_queue ") == 0
    assert operator.metric("plinth_plan_age_seconds ") < 20
    assert operator.end() == 0
    control_plane.kubectl("delete", "mdl", "--all", "-n", kube_namespace)


def test_from_apply_to_status_takes_a_moment(
    control_plane: Kubernetes, kube_namespace: str, replicas: Replicas
) -> None:
    operator = replicas.start("one")
    operator.wait(lambda: operator.leads, seconds=30, what="it leads")
    took = []
    for number in range(10):
        control_plane.apply(make_model(f"m{number}", kube_namespace))
        created = time.monotonic()
        control_plane.kubectl(
            "wait", f"mdl/m{number}", "-n", kube_namespace, "--for=jsonpath={.status.reason}", "--timeout=10s"
        )
        took.append(time.monotonic() - created)
    print(f"apply to status, kubectl included: p50 {statistics.median(took):.2f} s")
    assert statistics.median(took) < 1.0
    control_plane.kubectl("delete", "mdl", "--all", "-n", kube_namespace)


def test_a_status_that_somebody_overwrote_is_repaired(
    control_plane: Kubernetes, kube_namespace: str, replicas: Replicas
) -> None:
    operator = replicas.start("one")
    control_plane.apply(make_model("smol", kube_namespace))
    operator.wait(
        lambda: bool(reason_of(control_plane, "smol", kube_namespace)), seconds=30, what="it has a status"
    )
    reason = reason_of(control_plane, "smol", kube_namespace)
    patch = '{"status": {"reason": "Mine", "conditions": []}}'
    control_plane.kubectl(
        "patch", "mdl", "smol", "-n", kube_namespace, "--subresource=status", "--type=merge", "-p", patch
    )
    operator.wait(
        lambda: reason_of(control_plane, "smol", kube_namespace) == reason, seconds=5, what="it is repaired"
    )
    status = control_plane.get("modeldeployment", "smol", kube_namespace)["status"]
    assert "Ready" in {each["type"] for each in status["conditions"]}
    control_plane.kubectl("delete", "mdl", "--all", "-n", kube_namespace)


def test_events_tell_what_became_of_a_model(
    control_plane: Kubernetes, kube_namespace: str, replicas: Replicas
) -> None:
    operator = replicas.start("one")
    operator.wait(lambda: operator.leads, seconds=30, what="it leads")
    operator.wait(lambda: operator.metric("plinth_cycle_seconds_count") > 0, seconds=10, what="a first pass")
    control_plane.apply(make_model("smol", kube_namespace))

    def told() -> list[dict[str, Any]]:
        return control_plane.list("events.events.k8s.io", "-n", kube_namespace)

    operator.wait(lambda: bool(told()), seconds=10, what="an event")
    assert told()[0]["regarding"]["name"] == "smol"
    assert told()[0]["reportingController"] == "plinth.dev/operator"
    assert "smol" in control_plane.kubectl("events", "--for=modeldeployment/smol", "-n", kube_namespace)
    control_plane.kubectl("delete", "mdl", "--all", "-n", kube_namespace)


def test_a_pool_is_held_until_nothing_of_it_is_left(control_plane: Kubernetes, replicas: Replicas) -> None:
    operator = replicas.start("one")
    control_plane.apply(make_pool("held"))

    def finalizers() -> list[str]:
        return list(control_plane.get("gpupool", "held")["metadata"].get("finalizers", []))

    operator.wait(lambda: finalizers() == ["plinth.dev/drain"], seconds=30, what="it has the finalizer")
    started = time.monotonic()
    control_plane.kubectl("delete", "gpupool", "held", "--timeout=20s")
    assert time.monotonic() - started < 10


def test_of_two_replicas_one_leads_and_the_other_takes_over_at_once_when_it_ends(
    control_plane: Kubernetes, kube_namespace: str, replicas: Replicas
) -> None:
    first = replicas.start("one")
    first.wait(lambda: first.leads, seconds=30, what="the first leads")
    second = replicas.start("two")
    second.wait(lambda: second.probe("/readyz") == 200, seconds=30, what="the second is warm")
    assert not second.leads
    assert second.writes() == 0
    started = time.monotonic()
    assert first.end() == 0
    second.wait(lambda: second.leads, seconds=TAKEOVER_SECONDS, what="the second leads")
    print(f"handed over in {time.monotonic() - started:.1f} s")
    control_plane.apply(make_model("after", kube_namespace))
    second.wait(
        lambda: bool(reason_of(control_plane, "after", kube_namespace)), seconds=10, what="the second plans"
    )
    assert {line["logger"] for line in first.lines()} >= {"plinth.lease", "plinth.operator"}
    control_plane.kubectl("delete", "mdl", "--all", "-n", kube_namespace)


def test_a_killed_leader_is_replaced_after_its_lease_and_a_restarted_one_takes_its_own_back(
    replicas: Replicas,
) -> None:
    first = replicas.start("one")
    first.wait(lambda: first.leads, seconds=30, what="the first leads")
    first.kill()
    again = replicas.start("one")
    assert again.wait(lambda: again.leads, seconds=30, what="it leads again") < 12
    second = replicas.start("two")
    second.wait(lambda: second.probe("/readyz") == 200, seconds=30, what="the second is warm")
    again.kill()
    took = second.wait(lambda: second.leads, seconds=TAKEOVER_SECONDS, what="the second leads")
    print(f"took over in {took:.1f} s")


def test_after_the_api_server_was_away_the_fleet_is_followed_again_and_what_was_deleted_is_gone(
    own_control_plane: ControlPlane, own_replicas: Replicas
) -> None:
    plane = own_control_plane
    operator = own_replicas.start("one")
    plane.apply(*(make_model(name, "default") for name in ("stays", "goes")))
    operator.wait(lambda: bool(reason_of(plane, "goes", "default")), seconds=30, what="it has a status")
    plane.api_server.kill()
    time.sleep(15)
    assert operator.probe("/healthz") == 200
    assert operator.probe("/readyz") == 200
    assert operator.metric("plinth_leader ") == 0
    plane.api_server.start()
    plane.wait_ready()
    plane.kubectl("delete", "mdl", "goes")
    plane.apply(make_model("comes", "default"))
    took = operator.wait(
        lambda: bool(reason_of(plane, "comes", "default")), seconds=20, what="it plans again"
    )
    print(f"planned again {took:.1f} s after the API server was ready")
    operator.wait(lambda: operator.metric("plinth_models{") == 2, seconds=20, what="what went is forgotten")
    assert operator.process.poll() is None


def test_a_restarted_etcd_costs_nothing_but_time(
    own_control_plane: ControlPlane, own_replicas: Replicas
) -> None:
    plane = own_control_plane
    operator = own_replicas.start("one")
    operator.wait(lambda: operator.leads, seconds=30, what="it leads")
    plane.etcd.kill()
    time.sleep(3)
    plane.etcd.start()
    plane.wait_ready()
    plane.apply(make_model("comes", "default"))
    operator.wait(lambda: bool(reason_of(plane, "comes", "default")), seconds=30, what="it plans again")
    assert operator.process.poll() is None
